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
	Before  Figure
	After   Figure
	Ratio   float64 // after over before
	Beyond  bool    // more than noise
	Worse   bool    // and for the worse
}

// Compare lists the changes of what is ours between two runs. A change is beyond
// noise when it is more than 3 % and the intervals of both runs do not meet; a
// figure without an interval is listed and never judged.
func Compare(before, after *Report) []Change {
	var out []Change
	for _, c := range after.Cases {
		old := before.Case(c.Name)
		if old == nil {
			continue
		}
		was, is := old.Figures(), c.Figures()
		for _, m := range inOrder(is) {
			for _, variant := range []string{Ours, OursEncrypted} {
				b, ok1 := was[m][variant]
				a, ok2 := is[m][variant]
				if ok1 && ok2 && !metrics[m].informs {
					out = append(out, change(c.Name, variant, m, b, a))
				}
			}
		}
	}
	return out
}

// change judges one metric.
func change(name, variant string, m Metric, before, after Figure) Change {
	ch := Change{Case: name, Variant: variant, Metric: m, Before: before, After: after, Ratio: math.NaN()}
	if before.Median > 0 && after.Median > 0 {
		ch.Ratio = after.Median / before.Median
	}
	apart := after.Low > before.High || after.High < before.Low
	ch.Beyond = before.interval() && after.interval() && apart && math.Abs(ch.Ratio-1) > leastChange
	ch.Worse = ch.Beyond && (ch.Ratio > 1) != metrics[m].higher
	return ch
}

// WriteChanges writes changes as a table and counts those for the worse.
func WriteChanges(out io.Writer, before, after *Report, changes []Change) (worse int, err error) {
	if before.Machine != after.Machine {
		fmt.Fprintf(out, "The machines differ: %+v and %+v. What follows says little.\n", before.Machine, after.Machine)
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
		fmt.Fprintf(w, "%s\t%s\t%s, %s\t%s\t%s\t%.2f\t%s\n", ch.Case, ch.Variant, a.title, a.unit,
			cell(map[string]Figure{"": ch.Before}, "", a.scale), cell(map[string]Figure{"": ch.After}, "", a.scale), ch.Ratio, verdict)
	}
	return worse, w.Flush()
}
