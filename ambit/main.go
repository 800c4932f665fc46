// Command ambit is what a person types: demo, pods, why, version.
//
// One file per command; root.go puts them together. A command reads flags and
// calls a package: what it does is there, not here.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "dev"

// Exit codes. Scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1   // it ran, and a line is red
	exitCannotRun   = 2   // wrong usage, or something is missing
	exitInterrupted = 130 // as shells say it for SIGINT
)

// exitError is an error that carries its exit code. Text may be empty when all
// has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx)
	stop()
	os.Exit(code)
}

// run runs the command line and says what went wrong.
func run(ctx context.Context) int {
	err := newRoot().ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCannotRun
	if e, ok := errors.AsType[*exitError](err); ok {
		code = e.code
	}
	if ctx.Err() != nil {
		code = exitInterrupted
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, "ambit: "+text)
	}
	return code
}
