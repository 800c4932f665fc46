package report

import (
	"bytes"
	_ "embed" // the page's template
	"fmt"
	"html/template"
	"os"
	"slices"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

// page is what the template shows.
type page struct {
	Machine, Started, Plan string
	Programs               []pageProgram
	Missing                []Missing
	BarPlot                template.HTML
	Bars                   []pageBar
	Groups                 []*pageGroup
}

// pageProgram is a variant with its colour.
type pageProgram struct {
	Variant, Version string
	Colour           template.CSS
}

// pageBar is a line of the table of bars.
type pageBar struct {
	Case, Title, Is, Span, Must, Wanted, Class string
	Verdict                                    Verdict
}

// pageGroup are the cases of one way.
type pageGroup struct {
	ID, Title string
	Cases     []pageCase
}

// pageCase is one case.
type pageCase struct {
	Name, Title, Peer string
	Plots             []template.HTML
	Remarks, Variants []string
	Rows              []pageRow
}

// pageRow is a metric of a case.
type pageRow struct {
	Title, Unit, Ratio, Span string
	Cells                    []string
}

// groups are the beginnings of names of cases, and what to call them.
var groups = [][2]string{
	{"waypoint/", "Through a waypoint"},
	{"across", "Between two nodes"}, {"same", "Within a node"}, {"chain", "A chain of services"},
	{"memory", "Memory"}, {"idle", "When nothing happens"}, {"join", "Pods that join"}, {"control", "The control plane"}, {"", "Others"},
}

// WritePage writes the report as one page that needs nothing else: text, tables
// and plots.
func (r *Report) WritePage(path string) error {
	p, err := r.page()
	if err != nil {
		return err
	}
	t, err := template.New("page").Parse(pageText)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// page gathers what the template shows.
func (r *Report) page() (*page, error) {
	p := &page{
		Machine: fmt.Sprintf("%s, %d cores, %.1f GiB, %s, %s", r.Machine.CPU, r.Machine.Cores, float64(r.Machine.Memory)/(1<<30), r.Machine.Kernel, r.Machine.Go),
		Started: r.Started.Format("2 January 2006, 15:04 MST"),
		Plan:    fmt.Sprintf("plan %s: %d repetitions of %v, %v in all", r.Plan.Name, r.Plan.Repetitions, r.Plan.Window, (time.Duration(r.Seconds) * time.Second)),
		Missing: r.Missing,
	}
	p.Programs = append(p.Programs, pageProgram{None, "the same pods without a mesh", css(None)})
	for _, program := range r.Programs {
		p.Programs = append(p.Programs, pageProgram{program.Variant, program.Version, css(program.Variant)})
	}
	if err := p.addBars(r.Judge()); err != nil {
		return nil, err
	}
	for _, c := range r.Cases {
		shown, err := c.shown()
		if err != nil {
			return nil, fmt.Errorf("case %s: %w", c.Name, err)
		}
		g := p.group(c.Name)
		g.Cases = append(g.Cases, shown)
	}
	return p, nil
}

// css is the colour of a variant for the page.
func css(variant string) template.CSS {
	c := colour(variant)
	return template.CSS(fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B))
}

// addBars adds the bars, if the run says anything of them.
func (p *page) addBars(judged []Judged) error {
	if !slices.ContainsFunc(judged, func(j Judged) bool { return j.Verdict != BarUnknown }) {
		return nil
	}
	drawn, err := barPlot(judged)
	if err != nil {
		return err
	}
	p.BarPlot = template.HTML(drawn)
	for _, j := range judged {
		b := pageBar{Case: j.Case, Title: j.Title(), Is: "–", Must: j.limit(j.Must), Wanted: j.limit(j.Wanted), Verdict: j.Verdict}
		if j.Figure.N > 0 {
			b.Is = number(j.Figure.Median)
		}
		if j.Figure.interval() {
			b.Span = number(j.Figure.Low) + " – " + number(j.Figure.High)
		}
		switch j.Verdict {
		case BarWanted, BarMet:
			b.Class = "good"
		case BarMissed:
			b.Class = "bad"
		case BarOpen:
			b.Class = "unsure"
		default:
			b.Class = "none"
		}
		p.Bars = append(p.Bars, b)
	}
	return nil
}

// group finds or makes the group of a case.
func (p *page) group(name string) *pageGroup {
	for _, g := range groups {
		if !strings.HasPrefix(name, g[0]) {
			continue
		}
		i := slices.IndexFunc(p.Groups, func(have *pageGroup) bool { return have.Title == g[1] })
		if i < 0 {
			p.Groups = append(p.Groups, &pageGroup{ID: "group-" + g[0], Title: g[1]})
			i = len(p.Groups) - 1
		}
		return p.Groups[i]
	}
	return nil // the last beginning is that of every name
}

// shown is a case for the page.
func (c *Case) shown() (pageCase, error) {
	out := pageCase{Name: c.Name, Title: c.Title, Peer: c.peer(), Remarks: c.remarks(), Variants: c.having(slices.Concat(columns, beside))}
	figures := c.Figures()
	for _, m := range plotted(figures) {
		drawn, err := dotPlot(c, m, figures[m])
		if err != nil {
			return out, err
		}
		out.Plots = append(out.Plots, template.HTML(drawn))
	}
	drawn, err := c.curve()
	if err != nil {
		return out, err
	}
	if drawn != "" {
		out.Plots = append([]template.HTML{template.HTML(drawn)}, out.Plots...)
	}
	for _, m := range inOrder(figures) {
		a := metrics[m]
		line := pageRow{Title: a.title, Unit: a.unit}
		for _, v := range out.Variants {
			line.Cells = append(line.Cells, cell(figures[m], v, a.scale))
		}
		line.Ratio, line.Span = ratioCells(m, figures[m], c.peer())
		out.Rows = append(out.Rows, line)
	}
	return out, nil
}

// plotted are the metrics of a case that are worth a plot: what was measured, and
// what it cost.
func plotted(figures map[Metric]map[string]Figure) (out []Metric) {
	for _, m := range []Metric{
		Throughput, Requests, Connections, P50, CPUPerGB, CPUPer1000, IdleMemory, PerConnection, AfterLoad, IdleCPU,
		ColdP50, AddP50, FirstByteP50, ColdSync, ChangeP50, IstiodMemory, ZtunnelMemory,
	} {
		if len(figures[m]) > 0 {
			out = append(out, m)
		}
	}
	return out
}
