package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/perf/report"
)

// ceilingShare is how near a mesh may come to no mesh at all before the limit
// must have been the generator.
const ceilingShare = 0.9

// Run builds a site per variant, takes all samples, and removes the sites.
func Run(ctx context.Context, cfg Config) (_ *report.Report, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	var wanted []scene
	for _, sc := range scenes(cfg.Plan) {
		if cfg.wants(sc.name) {
			wanted = append(wanted, sc)
		}
	}
	if len(wanted) == 0 {
		return nil, fmt.Errorf("no case is called %v: see --list", cfg.Only)
	}
	r := &report.Report{Started: time.Now().UTC(), Plan: cfg.Plan, Missing: missing(cfg)}
	if r.Machine, err = machine(); err != nil {
		return nil, err
	}
	sites := map[string]*site{}
	defer func() {
		for _, s := range sites {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	for _, v := range variantsOf(wanted, cfg) {
		cfg.Progress("building " + v)
		s, err := startSite(ctx, cfg, v)
		if err != nil {
			return nil, err
		}
		sites[v] = s
		if p, err := program(ctx, cfg, v); err != nil {
			return nil, err
		} else if p != nil {
			r.Programs = append(r.Programs, *p)
		}
	}
	for _, sc := range wanted {
		cfg.Progress(sc.name)
		c, err := runScene(ctx, cfg, sc, sites)
		r.Cases = append(r.Cases, c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", sc.name, err)
		}
	}
	r.Seconds = time.Since(r.Started).Seconds()
	return r, nil
}

// List returns the cases of a plan: names and titles.
func List(plan report.Plan) [][2]string {
	var out [][2]string
	for _, sc := range scenes(plan) {
		out = append(out, [2]string{sc.name, sc.title})
	}
	return out
}

// variantsOf lists the variants that the cases need and that can be had.
func variantsOf(wanted []scene, cfg Config) []string {
	var out []string
	for _, v := range sameVariants {
		if v == report.Peer && cfg.Ztunnel == "" {
			continue
		}
		if slices.ContainsFunc(wanted, func(sc scene) bool { return slices.Contains(sc.variants, v) }) {
			out = append(out, v)
		}
	}
	return out
}

// runScene takes the samples of one case, the variants taking turns. A load that
// fails in a variant is an invalid sample, not the end of the run.
func runScene(ctx context.Context, cfg Config, sc scene, sites map[string]*site) (*report.Case, error) {
	c := &report.Case{Name: sc.name, Title: sc.title}
	repetitions := sc.repetitions
	if repetitions == 0 {
		repetitions = cfg.Plan.Repetitions
	}
	for rep := range repetitions {
		for _, v := range sc.variants {
			s := sites[v]
			if s == nil {
				continue
			}
			sample, err := sc.take(ctx, s, rep)
			if ctx.Err() != nil {
				return c, context.Cause(ctx)
			}
			if err != nil {
				sample = &report.Sample{Variant: v, Repetition: rep, Invalid: "the load failed: " + err.Error()}
			}
			c.Samples = append(c.Samples, sample)
		}
	}
	judgeCeiling(c, sc.ceiling)
	return c, nil
}

// judgeCeiling marks samples of a mesh that came so near to no mesh at all that
// the limit was the generator.
func judgeCeiling(c *report.Case, m report.Metric) {
	if m == "" {
		return
	}
	none, ok := c.Figures()[m][report.None]
	if !ok {
		return
	}
	for _, s := range c.Samples {
		if v, ok := s.Values[m]; ok && s.Variant != report.None && s.Invalid == "" && v > ceilingShare*none.Median {
			s.Invalid = fmt.Sprintf("the generator was the limit: without a mesh it does hardly more (%.3g)", none.Median)
		}
	}
}
