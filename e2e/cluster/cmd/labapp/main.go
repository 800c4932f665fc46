// Command labapp is an ordinary program that knows nothing of a mesh: the servers and
// clients of a lab's pods. LINGER is how long it goes on after SIGTERM; with EXIT_AFTER
// it ends by itself, as the program of a Job does.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "labapp:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	linger, err := time.ParseDuration(cmp.Or(os.Getenv("LINGER"), "300ms"))
	if err != nil {
		return fmt.Errorf("LINGER: %w", err)
	}
	life, err := time.ParseDuration(cmp.Or(os.Getenv("EXIT_AFTER"), "0s"))
	if err != nil {
		return fmt.Errorf("EXIT_AFTER: %w", err)
	}
	if life > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, life)
		defer cancel()
	}
	const control = "/labapp.sock"
	if err := os.Remove(control); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	pod := cmp.Or(os.Getenv("POD_NAME"), os.Getenv("HOSTNAME"))
	return labapp.Run(ctx, labapp.Config{Pod: pod, Control: control, Linger: linger})
}
