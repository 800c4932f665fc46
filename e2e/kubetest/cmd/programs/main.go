// Command programs builds etcd and kube-apiserver for tests, unless they are there.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/ambit-mesh/ambit/e2e/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	programs, err := cluster.FindControlPlane(ctx, cluster.Config{Progress: func(text string) { fmt.Println(text) }}, true)
	if err != nil {
		fmt.Fprintln(os.Stderr, "programs:", err)
		stop()
		os.Exit(1)
	}
	fmt.Println(programs.Etcd)
	fmt.Println(programs.APIServer)
}
