package cases

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// waypointCommand makes, looks at and removes a waypoint for a service of another
// namespace, as a person does.
func waypointCommand(ctx context.Context, e *Env) (string, error) {
	infra, err := e.Extra(ctx, "infra", map[string]string{modeLabel: modeMesh})
	if err != nil {
		return "", err
	}
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{modeLabel: modeMesh}); err != nil {
		return "", err
	}
	client, err := e.pair(ctx, 1, "")
	if err != nil {
		return "", err
	}
	server := e.Namespace + "/server"
	// say runs the command and makes sure that it does or refuses, and says so.
	say := func(does bool, want string, args ...string) error {
		out, err := e.Run(ctx, append([]string{"waypoint"}, args...)...)
		switch {
		case does && err != nil:
			return fmt.Errorf("%w:\n%s", err, out)
		case !does && err == nil:
			return fmt.Errorf("ambit waypoint %s: it should refuse:\n%s", strings.Join(args, " "), out)
		case !strings.Contains(out, want):
			return fmt.Errorf("ambit waypoint %s does not say %q:\n%s", strings.Join(args, " "), want, out)
		}
		return nil
	}
	err = errors.Join(
		say(false, "--wait=3m", "apply", "--namespace", infra, "--wait", "3m"),
		say(false, "--allow-namespaces", "apply", "--namespace", infra, "--enroll", "service/"+server),
		say(false, "there is no service", "apply", "--namespace", infra, "--enroll", "service/nothing"),
		say(true, "there is no waypoint in namespace "+infra, "list", "--namespace", infra),
	)
	if err != nil {
		return "", err
	}
	if err := say(true, "service "+server+" is bound to it", "apply", "--namespace", infra, "--allow-namespaces", e.Namespace, "--enroll", "service/"+server, "--wait"); err != nil {
		return "", err
	}
	if err := e.seenFromIn(ctx, client, infra); err != nil {
		return "", err
	}
	err = errors.Join(
		say(true, "1 service", "list", "-A"),
		say(true, "service "+server, "status", "--namespace", infra),
		say(false, "its traffic would be refused", "apply", "--namespace", infra),
		say(false, "still bound", "delete", "waypoint", "--namespace", infra),
	)
	if err != nil {
		return "", err
	}
	if err := e.seenFromIn(ctx, client, infra); err != nil {
		return "", fmt.Errorf("after what was refused: %w", err)
	}
	if err := say(true, "removed waypoint", "delete", "--all", "--namespace", infra, "--unenroll"); err != nil {
		return "", err
	}
	err = e.Until(ctx, 20*time.Second, "the server is reached without the waypoint", func(ctx context.Context) (bool, error) {
		hello, err := client.Hello(ctx, "server:80")
		return err == nil && strings.HasPrefix(hello.Remote, client.IP.String()+":"), err
	})
	if err != nil {
		return "", err
	}
	return "a waypoint for a service of another namespace was made, served it and was removed; what would have cut the service off was refused, and said", nil
}
