// Command labapp is an ordinary program that knows nothing of a mesh: the servers and
// clients of a lab's pods.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := labapp.Run(ctx, labapp.Config{Pod: os.Getenv("HOSTNAME"), Control: "/labapp.sock"}); err != nil {
		fmt.Fprintln(os.Stderr, "labapp:", err)
		os.Exit(1)
	}
}
