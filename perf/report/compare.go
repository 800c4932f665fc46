package report

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// leastChange is the smallest change that counts as one, whatever the intervals
// say: builds differ by so much in nothing but the place of code in memory.
const leastChange = 0.03

// Change is how a metric of a variant differs between two runs.
type Change struct {
	Case    string
	Variant string
	Metric  Metric
	// Against is the variant by which Before and After are divided, because the
	// machine was not the same in both runs; empty means that they are absolute.
	Against string
	Before  Figure
	After   Figure
	Ratio   float64 // after over before
	Beyond  bool    // more than noise
	Worse   bool    // and for the worse
}

// Compare lists the changes of what is ours between two runs. Where both have
// measured the same yardstick, the other ztunnel or else no mesh, what is
// compared is ours over that: a machine that is slower today is slower for all.
//
// A change is beyond noise when it is more than 3 % and the intervals of both
// runs do not meet; a figure without an interval is listed and never judged.
func Compare(before, after *Report) []Change {
	var out []Change
	for _, c := range after.Cases {
		old := before.Case(c.Name)
		if old == nil {
			continue
		}
		was, is := old.Figures(), c.Figures()
		for _, m := range inOrder(is) {
			if metrics[m].informs {
				continue
			}
			for _, variant := range []string{Ours, OursEncrypted} {
				b, ok1 := was[m][variant]
				a, ok2 := is[m][variant]
				if !ok1 || !ok2 {
					continue
				}
				ch := Change{Case: c.Name, Variant: variant, Metric: m, Before: b, After: a}
				ch.divide(was[m], is[m])
				ch.judge()
				out = append(out, ch)
			}
		}
	}
	return out
}

// divide puts both figures over the first yardstick that both runs have.
func (ch *Change) divide(was, is map[string]Figure) {
	for _, yardstick := range []string{Peer, Envoy, None} {
		b, ok1 := Ratio(ch.Before, was[yardstick])
		a, ok2 := Ratio(ch.After, is[yardstick])
		if ok1 && ok2 {
			ch.Against, ch.Before, ch.After = yardstick, b, a
			return
		}
	}
}

// judge compares the two figures.
func (ch *Change) judge() {
	before, after := ch.Before, ch.After
	ch.Ratio = math.NaN()
	if before.Median > 0 && after.Median > 0 {
		ch.Ratio = after.Median / before.Median
	}
	apart := after.Low > before.High || after.High < before.Low
	ch.Beyond = before.interval() && after.interval() && apart && math.Abs(ch.Ratio-1) > leastChange
	ch.Worse = ch.Beyond && (ch.Ratio > 1) != metrics[ch.Metric].higher
}

// WriteChanges writes changes as a table and counts those for the worse.
func WriteChanges(out io.Writer, before, after *Report, changes []Change) (worse int, err error) {
	if before.Machine != after.Machine {
		fmt.Fprintf(out, "The machines differ: %+v and %+v.\n", before.Machine, after.Machine)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CASE\tVARIANT\tMETRIC\tBEFORE\tAFTER\tRATIO\t")
	for _, ch := range changes {
		verdict := ""
		switch {
		case ch.Worse:
			verdict = "WORSE"
			worse++
		case ch.Beyond:
			verdict = "better"
		}
		a := metrics[ch.Metric]
		unit, scale := a.unit, a.scale
		if ch.Against != "" {
			unit, scale = "over "+ch.Against, 1
		}
		fmt.Fprintf(w, "%s\t%s\t%s, %s\t%s\t%s\t%.2f\t%s\n", ch.Case, ch.Variant, a.title, unit,
			cell(map[string]Figure{"": ch.Before}, "", scale), cell(map[string]Figure{"": ch.After}, "", scale), ch.Ratio, verdict)
	}
	return worse, w.Flush()
}
