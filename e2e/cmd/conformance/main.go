// Command conformance runs the conformance suite of the Gateway API against ambit on
// a real Kubernetes on this machine: profiles MESH-HTTP and MESH-GRPC with every
// extended feature.
//
//	main.go   the steps, one after the other
//	echo.go   the image of the suite's echo servers, built from their sources
//	mesh.go   the namespaces of the suite, with a waypoint each
package main

import (
	"cmp"
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
	"runtime"
	"strings"
	"syscall"

	"github.com/ambit-mesh/ambit/e2e/cluster"
)

// options are the flags.
type options struct {
	name, ambit, images, module, report, only, version string
	keep, suiteOnly                                    bool
}

func main() {
	o := options{}
	flag.StringVar(&o.name, "name", "conformance", "the lab cluster; one that stands is used and stays")
	flag.StringVar(&o.ambit, "ambit", "bin/ambit", "the command ambit, which installs")
	flag.StringVar(&o.images, "images", "dist/images", "`DIR` of the image archives")
	flag.StringVar(&o.module, "module", "e2e/conformance", "`DIR` of the module of the suite")
	flag.StringVar(&o.report, "report", "e2e/conformance/report.yaml", "the report of a whole run that passed is written to this `FILE`")
	flag.StringVar(&o.only, "only", "", "the `NAME` of one test; no report is written")
	flag.StringVar(&o.version, "version", "dev", "of ambit, for the report")
	flag.BoolVar(&o.keep, "keep", false, "leave the cluster standing")
	flag.BoolVar(&o.suiteOnly, "suite-only", false, "an earlier run has prepared the cluster: load and install nothing, run the suite at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// run does it all.
func run(ctx context.Context, o options, out io.Writer) (err error) {
	work, err := os.MkdirTemp("", "ambit-conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	test := filepath.Join(work, "conformance.test")
	if _, err := goIn(ctx, o.module, "test", "-c", "-o", test, "."); err != nil {
		return err
	}
	if o.suiteOnly {
		c, err := cluster.Open(o.name, "")
		if err != nil {
			return err
		}
		return suite(ctx, o, c, test, work, out)
	}
	echo, err := buildEcho(ctx, o.module, work)
	if err != nil {
		return fmt.Errorf("echo servers: %w", err)
	}
	c, found, err := stand(ctx, o, echo.archive, out)
	if err != nil {
		return err
	}
	if !found && !o.keep {
		defer func() { err = errors.Join(err, c.Down(context.WithoutCancel(ctx))) }()
	}
	if err := install(ctx, o, c); err != nil {
		return err
	}
	if err := makeNamespaces(ctx, c, echo.name); err != nil {
		return fmt.Errorf("namespaces of the suite: %w", err)
	}
	fmt.Fprintln(out, "ambit is installed, the suite begins")
	return suite(ctx, o, c, test, work, out)
}

// stand finds or builds the cluster, with all images loaded.
func stand(ctx context.Context, o options, echo string, out io.Writer) (c *cluster.Cluster, found bool, err error) {
	archives, err := filepath.Glob(filepath.Join(o.images, "*-"+runtime.GOARCH+".tar"))
	if err != nil || len(archives) == 0 {
		return nil, false, fmt.Errorf("no image archive in %s: make images", o.images)
	}
	c, err = cluster.Open(o.name, "")
	if found = err == nil; !found {
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
		if c, err = cluster.Up(ctx, cluster.Config{Name: o.name, Progress: func(what string) { fmt.Fprintln(out, what) }}); err != nil {
			return nil, false, err
		}
	}
	if err = c.Load(ctx, append(archives, echo)...); err != nil && !found {
		err = errors.Join(err, c.Down(context.WithoutCancel(ctx)))
	}
	return c, found, err
}

// install puts ambit onto the cluster, in place of what is there.
func install(ctx context.Context, o options, c *cluster.Cluster) error {
	act := "install"
	if c.Kubectl(ctx, "--namespace", "istio-system", "get", "daemonset", "ztunnel").Run() == nil {
		act = "upgrade"
	}
	cmd := exec.CommandContext(ctx, o.ambit, act)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", o.ambit, act, err, text)
	}
	for _, name := range otherChannel {
		if text, err := c.Kubectl(ctx, "delete", "--ignore-not-found", "crd", name).CombinedOutput(); err != nil {
			return fmt.Errorf("definition %s: %w\n%s", name, err, text)
		}
	}
	return nil
}

// otherChannel are definitions that an installation brings and that are not of the
// standard channel. The suite runs on definitions of one channel only, and has no
// test of a mesh that asks for these.
var otherChannel = []string{"xbackendtrafficpolicies.gateway.networking.x-k8s.io"}

// suite runs the tests. The report of a run that was whole, with every test passed,
// takes the place of the one that is kept.
func suite(ctx context.Context, o options, c *cluster.Cluster, test, work string, out io.Writer) error {
	report := filepath.Join(work, "report.yaml")
	args := []string{"-test.v", "-test.run", "TestConformance", "-test.timeout", "60m"}
	if o.only != "" {
		args, report = append(args, "-run-test", o.only), ""
	}
	cmd := exec.CommandContext(ctx, test, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "AMBIT_VERSION="+cmp.Or(o.version, "dev"), "CONFORMANCE_REPORT="+report)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the suite: %w", err)
	}
	if report == "" {
		return nil
	}
	text, err := os.ReadFile(report)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.report, text, 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "the report is in", o.report)
	return err
}

// goIn runs the go command in a module and returns what it writes.
func goIn(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	var failure strings.Builder
	cmd.Stderr = &failure
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), dir, err, failure.String())
	}
	return strings.TrimSpace(string(text)), nil
}
