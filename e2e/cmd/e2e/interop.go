package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/cases"
	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/e2e/interop"
)

// runInterop makes each mesh of mixed parts, runs its cases, and removes it.
func runInterop(ctx context.Context, o options, out io.Writer) (err error) {
	site := interop.Site{Ambit: o.ambit}
	if !o.list {
		if site.Peers, err = interop.FindPeers(o.peers); err != nil {
			return err
		}
	}
	start := time.Now()
	var c *cluster.Cluster
	var total cases.Total
	chosen := 0
	for _, w := range interop.Worlds() {
		some := cases.Matching(w.Cases(site.Peers), o.only)
		if chosen += len(some); len(some) == 0 {
			continue
		}
		if o.list {
			listCases(out, w, some)
			continue
		}
		if c == nil {
			var found bool
			if c, found, err = standForPeers(ctx, o, &site, out, start); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, leave(context.WithoutCancel(ctx), o, site, found)) }()
		}
		t, err := runWorld(ctx, o, site, w, some, out)
		total.Add(t)
		if err != nil {
			return conclude(out, total, err)
		}
	}
	switch {
	case chosen == 0:
		return errors.New("no case has such a name; see --list")
	case o.list:
		return nil
	}
	return conclude(out, total, nil)
}

// listCases names what a world promises.
func listCases(out io.Writer, w interop.World, some []cases.Case) {
	fmt.Fprintf(out, "%s: %s\n", w.Name, w.About)
	for _, c := range some {
		fmt.Fprintf(out, "  %-28s %s\n", c.Name, c.About)
	}
}

// standForPeers finds or builds the cluster, without a mesh, with all images loaded.
func standForPeers(ctx context.Context, o options, site *interop.Site, out io.Writer, start time.Time) (*cluster.Cluster, bool, error) {
	c, found, err := stand(ctx, o, out, start)
	if err != nil {
		return nil, found, err
	}
	site.Cluster = c
	if err = site.Peers.Load(ctx, c); err != nil && !found {
		err = errors.Join(err, c.Down(context.WithoutCancel(ctx)))
	}
	return c, found, err
}

// leave takes away what was made: the cluster, or of one that was found the mesh.
func leave(ctx context.Context, o options, site interop.Site, found bool) error {
	switch {
	case o.keep:
		return nil
	case found:
		return site.Remove(ctx)
	}
	return site.Cluster.Down(ctx)
}

// runWorld makes one mesh and runs its cases. One that cannot be made fails them all.
func runWorld(ctx context.Context, o options, site interop.Site, w interop.World, some []cases.Case, out io.Writer) (cases.Total, error) {
	start := time.Now()
	if err := site.Make(ctx, w); err != nil {
		if ctx.Err() != nil {
			return cases.Total{}, context.Cause(ctx)
		}
		fmt.Fprintf(out, "FAIL  %s: %s\n      %s\n", w.Name, w.About, strings.ReplaceAll(err.Error(), "\n", "\n      "))
		return cases.Total{Failed: len(some)}, nil
	}
	fmt.Fprintf(out, "  %5.1f s  %s: %s\n", time.Since(start).Seconds(), w.Name, w.About)
	return cases.Run(ctx, o.config(site.Cluster, out), some)
}
