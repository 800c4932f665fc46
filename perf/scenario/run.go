package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
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
	if err := raiseOpenFiles(); err != nil {
		return nil, err
	}
	sites, hops := map[string]*site{}, map[string]*site{}
	defer func() { err = errors.Join(err, closeAll(ctx, sites), closeAll(ctx, hops)) }()
	if err := buildSites(ctx, cfg, wanted, sites, r); err != nil {
		return nil, err
	}
	if wantsHops(wanted) {
		if err := buildHops(ctx, cfg, hops, r); err != nil {
			return nil, err
		}
	}
	for _, sc := range wanted {
		if sc.needs != nil {
			if err := sc.needs(); err != nil {
				r.Missing = append(r.Missing, report.Missing{Peer: sc.name, Why: err.Error()})
				continue
			}
		}
		cfg.Progress(sc.name)
		where := sites
		if sc.hop {
			where = hops
		}
		c, err := runScene(ctx, cfg, sc, where)
		r.Cases = append(r.Cases, c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", sc.name, err)
		}
	}
	r.Seconds = time.Since(r.Started).Seconds()
	return r, nil
}

// closeAll removes sites, guests of another's lab first.
func closeAll(ctx context.Context, sites map[string]*site) (err error) {
	for _, s := range slices.SortedFunc(maps.Values(sites), func(a, b *site) int { return cmp.Compare(rank(a), rank(b)) }) {
		err = errors.Join(err, s.close(ctx))
	}
	return err
}

// rank orders sites for their end.
func rank(s *site) int {
	if s.guest {
		return 0
	}
	return 1
}

// buildSites builds a site per variant that the cases need, and notes what was
// built and what is missing.
func buildSites(ctx context.Context, cfg Config, wanted []scene, sites map[string]*site, r *report.Report) error {
	for _, v := range variantsOf(wanted, cfg) {
		cfg.Progress("building " + v)
		s, err := startSite(ctx, cfg, v, nil)
		if err != nil {
			return err
		}
		sites[v] = s
		if p, err := program(ctx, cfg, v); err != nil {
			return err
		} else if p != nil {
			r.Programs = append(r.Programs, *p)
		}
	}
	if !slices.ContainsFunc(wanted, func(sc scene) bool { return sc.yardsticks }) || cfg.Plan.Name == quick.Name {
		return nil
	}
	for _, y := range yardsticks() {
		version, err := y.find(ctx)
		if err == nil && len(cfg.WireGuard) == 0 && y.variant() == report.WireGuardGo {
			err = errors.New("this program cannot run it")
		}
		if err != nil {
			r.Missing = append(r.Missing, report.Missing{Peer: y.variant(), Why: err.Error()})
			continue
		}
		cfg.Progress("building " + y.variant())
		s, err := startSite(ctx, cfg, y.variant(), sites[report.None])
		if err != nil {
			return fmt.Errorf("%s: %w", y.variant(), err)
		}
		sites[y.variant()] = s
		r.Programs = append(r.Programs, report.Program{Variant: y.variant(), Version: version})
	}
	return nil
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
		if slices.ContainsFunc(wanted, func(sc scene) bool { return !sc.hop && slices.Contains(sc.variants, v) }) {
			out = append(out, v)
		}
	}
	return out
}

// runScene takes the samples of one case, the variants taking turns. A load that
// fails in a variant is an invalid sample, not the end of the run.
func runScene(ctx context.Context, cfg Config, sc scene, sites map[string]*site) (_ *report.Case, err error) {
	c := &report.Case{Name: sc.name, Title: sc.title}
	var taking []*site
	for _, v := range sc.variants {
		if s := sites[v]; s != nil {
			taking = append(taking, s)
		}
	}
	defer func() {
		for _, s := range taking {
			if sc.undo != nil {
				err = errors.Join(err, sc.undo(context.WithoutCancel(ctx), s))
			}
		}
	}()
	for _, s := range taking {
		if sc.prepare != nil {
			if err := sc.prepare(ctx, s); err != nil {
				return c, fmt.Errorf("prepare %s: %w", s.variant, err)
			}
		}
	}
	for rep := range cmp.Or(sc.repetitions, cfg.Plan.Repetitions) {
		turn := taking
		if sc.yardsticks && rep < fewer(cfg.Plan)+1 {
			turn = slices.Concat(taking, guests(sites))
		}
		samples, err := takeTurn(ctx, sc, turn, rep)
		c.Samples = append(c.Samples, samples...)
		if err != nil {
			return c, err
		}
	}
	judgeCeiling(c, sc.ceiling)
	return c, nil
}

// guests are the sites of yardsticks, in the order of the report.
func guests(sites map[string]*site) (out []*site) {
	for _, y := range yardsticks() {
		if s := sites[y.variant()]; s != nil {
			out = append(out, s)
		}
	}
	return out
}

// takeTurn takes one sample of each site.
func takeTurn(ctx context.Context, sc scene, turn []*site, rep int) (samples []*report.Sample, err error) {
	failed := map[*site]error{}
	if sc.load != nil {
		for _, s := range turn {
			failed[s] = sc.load(ctx, s)
		}
		if err := lifecycle.Sleep(ctx, sc.rest); err != nil {
			return nil, context.Cause(ctx)
		}
	}
	for _, s := range turn {
		sample, err := (*report.Sample)(nil), failed[s]
		if err == nil {
			sample, err = sc.take(ctx, s, rep)
		}
		if ctx.Err() != nil {
			return samples, context.Cause(ctx)
		}
		if err != nil {
			sample = &report.Sample{Variant: s.variant, Repetition: rep, Invalid: "the load failed: " + err.Error()}
		}
		samples = append(samples, sample)
	}
	return samples, nil
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
