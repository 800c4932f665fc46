package cases

import (
	"context"
	"fmt"
	"strings"
)

// rootCases are about what certificates rest on.
func rootCases() []Case {
	return []Case{
		{Name: "root-changed", About: "the root of all certificates is changed under load: every node acknowledges before the switch, and no request fails", Run: rootChanged},
	}
}

func rootChanged(ctx context.Context, e *Env) (string, error) {
	g, err := e.guard(ctx, 2)
	if err != nil {
		return "", err
	}
	out, err := e.Run(ctx, "ca", "rotate", "--timeout", "3m")
	e.Note("ambit ca rotate:\n%s", out)
	if err != nil {
		return "", fmt.Errorf("%w:\n%s", err, out)
	}
	// A pod that comes now gets its certificate from the new CA, and is trusted.
	if err := e.newcomer(ctx); err != nil {
		return "", err
	}
	evidence, err := g.clean()
	if err != nil {
		return "", err
	}
	status, err := e.Run(ctx, "ca", "status")
	if err != nil {
		return "", fmt.Errorf("%w:\n%s", err, status)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return fmt.Sprintf("%s; %s", strings.TrimSpace(lines[len(lines)-1]), evidence), nil
}
