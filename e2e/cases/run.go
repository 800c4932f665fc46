package cases

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/cluster"
)

const (
	// caseWithin bounds a case; the longest hold something down for 60 seconds.
	caseWithin = 10 * time.Minute
	// tidyWithin bounds what comes after a case.
	tidyWithin = 2 * time.Minute
)

// Config says how to run cases.
type Config struct {
	Cluster *cluster.Cluster
	Ambit   string    // path of the command ambit
	Out     io.Writer // a line for each case
	Verbose io.Writer // what cases note while they run; may be nil
	Dir     string    // where failed cases leave what they have seen
	// Manifests is a directory of manifests that users have, which cases apply
	// unchanged.
	Manifests string
}

// Total says how many cases passed and failed.
type Total struct{ Passed, Failed int }

// Add counts another total in.
func (t *Total) Add(other Total) { t.Passed, t.Failed = t.Passed+other.Passed, t.Failed+other.Failed }

// Run runs cases one after the other. Its error says that they could not be run.
func Run(ctx context.Context, cfg Config, cases []Case) (Total, error) {
	var total Total
	kube, err := client(cfg.Cluster)
	if err != nil {
		return total, err
	}
	for _, c := range cases {
		if ctx.Err() != nil {
			return total, context.Cause(ctx)
		}
		e := &Env{
			Cluster: cfg.Cluster, Kube: kube, Ambit: cfg.Ambit, Manifests: cfg.Manifests, progress: cfg.Verbose,
			Namespace: "e2e-" + c.Name, Marker: "ambit-plaintext-" + rand.Text(),
			dir: filepath.Join(cfg.Dir, time.Now().Format("150405-")+c.Name),
		}
		start := time.Now()
		evidence, err := e.run(ctx, c)
		took := time.Since(start).Seconds()
		if err == nil {
			total.Passed++
			fmt.Fprintf(cfg.Out, "ok    %-28s %6.1f s  %s\n", c.Name, took, evidence)
			continue
		}
		total.Failed++
		fmt.Fprintf(cfg.Out, "FAIL  %-28s %6.1f s  %s\n      promised: %s\n", c.Name, took, strings.ReplaceAll(err.Error(), "\n", "\n      "), c.About)
		fmt.Fprintf(cfg.Out, "      what was seen: %s\n", e.dir)
	}
	return total, nil
}

// run runs one case and tidies up behind it.
func (e *Env) run(ctx context.Context, c Case) (evidence string, err error) {
	if err := e.makeNamespace(ctx, e.Namespace, nil); err != nil {
		return "", err
	}
	work, cancel := context.WithTimeoutCause(ctx, caseWithin, fmt.Errorf("the case took longer than %v", caseWithin))
	defer cancel()
	evidence, err = c.Run(work, e)
	if err != nil {
		if cause := context.Cause(work); cause != nil && ctx.Err() == nil {
			err = errors.Join(cause, err)
		}
		err = errors.Join(err, e.keep(context.WithoutCancel(ctx), err))
	}
	return evidence, errors.Join(err, e.tidy(context.WithoutCancel(ctx)))
}

// tidy ends what the case has left running and removes its namespaces.
func (e *Env) tidy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tidyWithin)
	defer cancel()
	var errs []error
	for i := len(e.undo) - 1; i >= 0; i-- {
		if err := e.undo[i](ctx); err != nil {
			errs = append(errs, fmt.Errorf("tidy up: %w", err))
		}
	}
	for _, l := range e.loads {
		l.session.Close()
		l.reader.Wait()
	}
	for _, l := range e.leaks {
		_, err := l.Stop()
		errs = append(errs, err)
	}
	for _, ns := range append(e.others, e.Namespace) {
		errs = append(errs, e.removeNamespace(ctx, ns))
	}
	return errors.Join(errs...)
}

// keep writes down what is needed to find out why a case failed.
func (e *Env) keep(ctx context.Context, why error) error {
	ctx, cancel := context.WithTimeout(ctx, tidyWithin)
	defer cancel()
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return err
	}
	c := &collector{e: e, dir: e.dir}
	c.write("why.txt", []byte(why.Error()+"\n\n"+e.notes.String()))
	c.traffic()
	c.objects(ctx)
	c.logs(ctx)
	c.nodes(ctx)
	return errors.Join(c.errs...)
}
