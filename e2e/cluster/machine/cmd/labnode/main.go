// Command labnode is the first process of a lab's machine: see package machine.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/ambit-mesh/ambit/e2e/cluster/machine"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: labnode init DIR; it is started by `ambit lab up`")
		os.Exit(2)
	}
	if err := machine.Main(context.Background(), os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "labnode:", err)
		os.Exit(1)
	}
}
