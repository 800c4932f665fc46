// Command e2e runs the cases on a real Kubernetes on this machine: see package cases.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/e2e/cases"
	"github.com/ambit-mesh/ambit/e2e/cluster"
)

// options are the flags.
type options struct {
	name, images, ambit, dir string
	peers, manifests         string
	only                     *regexp.Regexp
	repeat, nodes            int
	keep, plain, verbose     bool
	list                     bool
}

// errFailed says that cases failed, and that all has been said.
var errFailed = errors.New("cases failed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, errFailed):
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(2)
	}
}

// ownManifests are the manifests that users have, as the tests of waypoints without
// Kubernetes apply them.
const ownManifests = "e2e/waypoint/testdata"

func parse(args []string) (options, error) {
	var o options
	var only string
	flags := flag.NewFlagSet("e2e", flag.ContinueOnError)
	flags.StringVar(&o.name, "cluster", "e2e", "name of the cluster; one that stands is used as it is and stays")
	flags.IntVar(&o.nodes, "nodes", 2, "how many nodes a new cluster gets")
	flags.StringVar(&o.images, "images", "dist/images", "directory of the components' image archives")
	flags.StringVar(&o.ambit, "ambit", "bin/ambit", "the command ambit, which installs")
	flags.StringVar(&o.dir, "failures", "e2e-failures", "where failed cases leave what they have seen")
	flags.StringVar(&o.peers, "peers", "", "directory of Istio's programs: run the cases of meshes of mixed parts instead, see package interop")
	flags.StringVar(&o.manifests, "manifests", ownManifests, "directory of manifests that users have, which cases apply unchanged")
	flags.StringVar(&only, "only", "", "run the cases whose names match this expression")
	flags.IntVar(&o.repeat, "repeat", 1, "run all of them so many times")
	flags.BoolVar(&o.keep, "keep", false, "leave the cluster standing")
	flags.BoolVar(&o.plain, "plain", false, "install nothing and run the cases that need no mesh")
	flags.BoolVar(&o.verbose, "v", false, "show what cases note while they run")
	flags.BoolVar(&o.list, "list", false, "list the cases")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if only == "" {
		return o, nil
	}
	var err error
	o.only, err = regexp.Compile(only)
	return o, err
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.peers != "" {
		return runInterop(ctx, o, out)
	}
	chosen := cases.Matching(cases.All(), o.only)
	if o.list {
		for _, c := range chosen {
			fmt.Fprintf(out, "%-28s %s\n", c.Name, c.About)
		}
		return nil
	}
	if len(chosen) == 0 {
		return errors.New("no case has such a name; see --list")
	}
	if _, err := os.Stat(o.manifests); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(out, "manifests: there is no directory %s, those of %s are applied\n", o.manifests, ownManifests)
		o.manifests = ownManifests
	}
	start := time.Now()
	c, found, err := stand(ctx, o, out, start)
	if err != nil {
		return err
	}
	if !found && !o.keep {
		defer func() { err = errors.Join(err, c.Down(context.WithoutCancel(ctx))) }()
	}
	total, err := runAll(ctx, o, c, chosen, out)
	return conclude(out, total, err)
}

// conclude writes the last line.
func conclude(out io.Writer, total cases.Total, err error) error {
	fmt.Fprintf(out, "%d passed, %d failed\n", total.Passed, total.Failed)
	if err == nil && total.Failed > 0 {
		err = errFailed
	}
	return err
}

// config says how cases are run.
func (o options) config(c *cluster.Cluster, out io.Writer) cases.Config {
	cfg := cases.Config{Cluster: c, Ambit: o.ambit, Out: out, Dir: o.dir, Manifests: o.manifests}
	if o.verbose {
		cfg.Verbose = out
	}
	return cfg
}

// runAll installs, and runs the chosen cases as often as asked.
func runAll(ctx context.Context, o options, c *cluster.Cluster, chosen []cases.Case, out io.Writer) (cases.Total, error) {
	var total cases.Total
	cfg := o.config(c, out)
	for range o.repeat {
		if o.plain {
			var plain []cases.Case
			for _, k := range chosen {
				if k.Plain {
					plain = append(plain, k)
				}
			}
			chosen = plain
		} else if err := install(ctx, o, c, out); err != nil {
			return total, err
		}
		t, err := cases.Run(ctx, cfg, chosen)
		total.Add(t)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// stand finds or builds the cluster, with the images loaded.
func stand(ctx context.Context, o options, out io.Writer, start time.Time) (c *cluster.Cluster, found bool, err error) {
	c, err = cluster.Open(o.name, "")
	found = err == nil
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
		c, err = cluster.Up(ctx, cluster.Config{Name: o.name, Nodes: o.nodes, Progress: func(what string) {
			fmt.Fprintf(out, "  %5.1f s  %s\n", time.Since(start).Seconds(), what)
		}})
		if err != nil {
			return nil, false, err
		}
	}
	if o.plain {
		return c, found, nil
	}
	archives, err := filepath.Glob(filepath.Join(o.images, "*-"+runtime.GOARCH+".tar"))
	if err == nil && len(archives) == 0 {
		err = fmt.Errorf("no image archive in %s: make images", o.images)
	}
	if err == nil {
		err = c.Load(ctx, archives...)
	}
	if err != nil && !found {
		err = errors.Join(err, c.Down(context.WithoutCancel(ctx)))
	}
	return c, found, err
}

// install puts ambit onto the cluster, as a person would; one that is there already is
// replaced by this version.
func install(ctx context.Context, o options, c *cluster.Cluster, out io.Writer) error {
	start := time.Now()
	act := "install"
	if c.Kubectl(ctx, "--namespace", cases.System, "get", "daemonset", "ztunnel").Run() == nil {
		act = "upgrade"
	}
	cmd := exec.CommandContext(ctx, o.ambit, act)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", o.ambit, act, err, text)
	}
	_, err := fmt.Fprintf(out, "  %5.1f s  ambit %s\n", time.Since(start).Seconds(), act)
	return err
}
