package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/demo"
)

// runInterop builds the lab twice, with another ztunnel on one node and then on
// the other.
func runInterop(ctx context.Context, out, progress io.Writer, flags demoFlags) error {
	start := time.Now()
	peer, err := filepath.Abs(flags.peer)
	if err != nil {
		return err
	}
	if info, err := os.Stat(peer); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not a program: name a ztunnel that was built elsewhere", peer)
	}
	if err := lab.Preflight(); err != nil {
		return err
	}
	printer := demo.Printer{Out: out, Colour: colourful(out)}
	var all []demo.Result
	for _, node := range []string{"node-1", "node-2"} {
		results, err := interopOn(ctx, node, peer, progress, flags, func(r demo.Result) {
			r.Line += " (peer on " + node + ")"
			if !flags.json {
				printer.Result(r)
			}
			all = append(all, r)
		})
		if err != nil {
			return fmt.Errorf("with %s on %s: %w", peer, node, err)
		}
		if len(results) < len(demo.InteropLines()) {
			return errors.New("interrupted")
		}
	}
	if flags.json {
		err = demo.WriteJSON(out, all, time.Since(start).Seconds())
	} else {
		printer.Summary(all)
	}
	if _, failed := demo.Count(all); failed > 0 && err == nil {
		err = &exitError{code: exitFailed}
	}
	return err
}

// interopOn shows the lines with the peer on one node.
func interopOn(ctx context.Context, node, peer string, progress io.Writer, flags demoFlags, tell func(demo.Result)) (results []demo.Result, err error) {
	cfg, err := demoLab(flags, progress)
	if err != nil {
		return nil, err
	}
	cfg.Ztunnels = map[string]string{node: peer}
	l, err := lab.Up(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close(context.WithoutCancel(ctx))) }()
	return demo.Run(ctx, l, demo.InteropLines(), tell), nil
}
