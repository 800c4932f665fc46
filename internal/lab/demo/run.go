package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Result is what came of a line.
type Result struct {
	Line     string  `json:"line"`
	Says     string  `json:"says"`
	Fault    string  `json:"fault,omitempty"`
	Passed   bool    `json:"passed"`
	Evidence string  `json:"evidence,omitempty"`
	Error    string  `json:"error,omitempty"`
	Seconds  float64 `json:"seconds"`
}

// Run runs lines on a standing lab and tells each result as it comes. It stops
// when ctx ends.
func Run(ctx context.Context, l *lab.Lab, lines []Line, tell func(Result)) []Result {
	var results []Result
	for _, line := range lines {
		if ctx.Err() != nil {
			break
		}
		r := runLine(ctx, l, line)
		if ctx.Err() != nil {
			break // an interruption says nothing about the line
		}
		results = append(results, r)
		tell(r)
	}
	return results
}

// runLine runs one line.
func runLine(ctx context.Context, l *lab.Lab, line Line) Result {
	ctx, cancel := context.WithTimeout(ctx, lineTimeout)
	defer cancel()
	start := time.Now()
	evidence, err := line.run(ctx, l)
	r := Result{Line: line.Name, Says: line.Says, Passed: err == nil, Evidence: evidence, Seconds: time.Since(start).Seconds()}
	if err != nil {
		r.Evidence, r.Error = "", err.Error()
	}
	return r
}

// RunBroken runs the line of a fault alone against the sabotaged mesh. It should
// fail.
func RunBroken(ctx context.Context, l *lab.Lab, f Fault) (Result, error) {
	if _, err := f.apply(ctx, l); err != nil {
		return Result{}, fmt.Errorf("sabotage %s: %w", f.Name, err)
	}
	r := runLine(ctx, l, lineNamed(f.Line))
	r.Fault = f.Name
	return r, nil
}

// RunFaults puts one fault after another into a standing lab. A result passes
// when the line was red for the reason that the fault is, and green again
// without it.
func RunFaults(ctx context.Context, l *lab.Lab, faults []Fault, tell func(Result)) []Result {
	var results []Result
	for _, f := range faults {
		if ctx.Err() != nil {
			break
		}
		start := time.Now()
		seen, err := runFault(ctx, l, f)
		r := Result{Line: f.Line, Says: f.Does, Fault: f.Name, Passed: err == nil, Evidence: seen, Seconds: time.Since(start).Seconds()}
		if err != nil {
			r.Evidence, r.Error = "", err.Error()
		}
		if ctx.Err() != nil {
			break // an interruption says nothing about the line
		}
		results = append(results, r)
		tell(r)
	}
	return results
}

// runFault returns what the line said when it was red.
func runFault(ctx context.Context, l *lab.Lab, f Fault) (seen string, err error) {
	undo, err := f.apply(ctx, l)
	if err != nil {
		if undo != nil {
			err = errors.Join(err, undo(context.WithoutCancel(ctx)))
		}
		return "", fmt.Errorf("sabotage: %w", err)
	}
	line := lineNamed(f.Line)
	r := runLine(ctx, l, line)
	if err := undo(context.WithoutCancel(ctx)); err != nil {
		return "", fmt.Errorf("repair: %w", err)
	}
	switch {
	case r.Passed:
		return "", fmt.Errorf("line %s stayed green: %s", f.Line, r.Evidence)
	case !strings.Contains(r.Error, f.Sign):
		return "", fmt.Errorf("line %s was red for another reason than %q: %s", f.Line, f.Sign, r.Error)
	}
	err = until(ctx, recoversWithin, "line "+f.Line+" is green again", func(ctx context.Context) error {
		if again := runLine(ctx, l, line); !again.Passed {
			return errors.New(again.Error)
		}
		return nil
	})
	return r.Error, err
}

// recoversWithin is how long a mesh may take to be well again after a sabotage,
// back-off of those who were cut off from the control plane included.
const recoversWithin = 20 * time.Second

// until asks until there is no error.
func until(ctx context.Context, timeout time.Duration, what string, ask func(context.Context) error) error {
	deadline := time.Now().Add(timeout)
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if serr := lifecycle.Sleep(ctx, 50*time.Millisecond); serr != nil || time.Now().After(deadline) {
			return errors.Join(serr, fmt.Errorf("waited %v until %s: %w", timeout, what, err))
		}
	}
}
