package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// noisy is the share of the machine that others may take before the table says
// so.
const noisy = 0.05

// columns are the variants in the order of the table, and beside them what is
// no mesh, in a table of its own.
var (
	columns = []string{None, Ours, OursEncrypted, Peer, Envoy}
	beside  = []string{HAProxy, HAProxyTLS, Nginx, NginxTLS, WireGuardGo, WireGuard}
)

// Table writes the figures for a terminal.
func (r *Report) Table(out io.Writer) error {
	fmt.Fprintf(out, "%s, %d cores, %s, %s; %d repetitions of %v, the variants taking turns\n",
		r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.Go, r.Plan.Repetitions, r.Plan.Window)
	for _, p := range r.Programs {
		fmt.Fprintf(out, "%s: %s\n", p.Variant, p.Version)
	}
	for _, m := range r.Missing {
		fmt.Fprintf(out, "not measured: %s: %s\n", m.Peer, m.Why)
	}
	for _, c := range r.Cases {
		if err := c.table(out); err != nil {
			return err
		}
	}
	return r.barTable(out)
}

// table writes the figures of one case: one line per metric.
func (c *Case) table(out io.Writer) error {
	fmt.Fprintf(out, "\n%s (%s)\n", c.Title, c.Name)
	figures := c.Figures()
	shown := c.having(columns)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t%s\tunit\t%s/%s\t95 %%\t\n", strings.Join(shown, "\t"), Ours, c.peer())
	for _, m := range inOrder(figures) {
		cells := []string{metrics[m].title}
		for _, v := range shown {
			cells = append(cells, cell(figures[m], v, metrics[m].scale))
		}
		ratio, span := ratioCells(m, figures[m], c.peer())
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", strings.Join(cells, "\t"), metrics[m].unit, ratio, span)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := c.besideTable(out, figures); err != nil {
		return err
	}
	for _, line := range c.remarks() {
		fmt.Fprintln(out, "  "+line)
	}
	return nil
}

// having returns those of variants that the case has.
func (c *Case) having(variants []string) (out []string) {
	have := c.Variants()
	for _, v := range variants {
		if slices.Contains(have, v) {
			out = append(out, v)
		}
	}
	return out
}

// besideTable writes the figures of what was measured beside the mesh.
func (c *Case) besideTable(out io.Writer, figures map[Metric]map[string]Figure) error {
	shown := c.having(beside)
	if len(shown) == 0 {
		return nil
	}
	fmt.Fprint(out, "  beside it:\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t%s\tunit\t\n", strings.Join(shown, "\t"))
	for _, m := range inOrder(figures) {
		if metrics[m].informs {
			continue
		}
		cells := []string{metrics[m].title}
		for _, v := range shown {
			cells = append(cells, cell(figures[m], v, metrics[m].scale))
		}
		fmt.Fprintf(w, "%s\t%s\t\n", strings.Join(cells, "\t"), metrics[m].unit)
	}
	return w.Flush()
}

// cell is a median with half of its interval.
func cell(by map[string]Figure, variant string, scale float64) string {
	f, ok := by[variant]
	if !ok {
		return "-"
	}
	text := number(f.Median * scale)
	if f.interval() {
		text += " ±" + number((f.High-f.Low)/2*scale)
	}
	return text
}

// peer is the variant that ours is judged against in the case.
func (c *Case) peer() string {
	if len(c.having([]string{Envoy})) > 0 {
		return Envoy
	}
	return Peer
}

// ratioCells are ours over the peer's, and its interval.
func ratioCells(m Metric, by map[string]Figure, against string) (ratio, span string) {
	ours, ok1 := by[Ours]
	peer, ok2 := by[against]
	if !ok1 || !ok2 || metrics[m].informs {
		return "", ""
	}
	r, ok := Ratio(ours, peer)
	if !ok {
		return "-", ""
	}
	if r.interval() {
		span = fmt.Sprintf("%.2f-%.2f", r.Low, r.High)
	}
	return fmt.Sprintf("%.2f", r.Median), span
}

// number writes three digits that count.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// remarks say what a reader must know beside the figures.
func (c *Case) remarks() []string {
	var lines []string
	worst := 0.0
	for _, s := range c.Samples {
		if s.Invalid != "" {
			lines = append(lines, fmt.Sprintf("invalid: %s, repetition %d: %s", s.Variant, s.Repetition+1, s.Invalid))
		}
		worst = max(worst, s.Others)
	}
	if worst > noisy {
		lines = append(lines, fmt.Sprintf("other programs took up to %.0f %% of the machine meanwhile", 100*worst))
	}
	return lines
}
