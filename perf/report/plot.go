package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/ambit-mesh/ambit/perf/load"
)

// Sizes of plots, in points.
const (
	plotWidth  = 360 * vg.Length(1)
	wideWidth  = 740 * vg.Length(1)
	rowHeight  = 22 * vg.Length(1)
	axisHeight = 56 * vg.Length(1)
	curveHigh  = 220 * vg.Length(1)
)

// fontSize is that of all words in plots, in points.
const fontSize = 10.5

// colour is what stands for a variant on the whole page.
func colour(variant string) color.RGBA {
	switch variant {
	case Ours:
		return color.RGBA{0x1d, 0x5f, 0xc9, 0xff}
	case OursEncrypted:
		return color.RGBA{0x6d, 0xa8, 0xf0, 0xff}
	case Peer, Envoy:
		return color.RGBA{0xd0, 0x6b, 0x1e, 0xff}
	case None:
		return color.RGBA{0x8a, 0x90, 0x99, 0xff}
	}
	return color.RGBA{0x4f, 0x8f, 0x7b, 0xff}
}

// faint is a colour for single samples behind a median.
func faint(c color.RGBA) color.Color { return color.NRGBA{c.R, c.G, c.B, 0x77} }

// Colours of what is no data.
var (
	ink    = color.RGBA{0x33, 0x3a, 0x44, 0xff}
	grid   = color.RGBA{0xe6, 0xe8, 0xec, 0xff}
	good   = color.RGBA{0x1f, 0x7a, 0x4d, 0xff}
	bad    = color.RGBA{0xb4, 0x2b, 0x33, 0xff}
	unsure = color.RGBA{0x9a, 0x74, 0x12, 0xff}
)

// newPlot is an empty plot in the style of the page.
func newPlot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Color, a.Label.TextStyle.Color, a.Tick.Color, a.Tick.Label.Color = grid, ink, grid, ink
		a.Label.TextStyle.Font = sans(fontSize)
		a.Tick.Label.Font = sans(fontSize)
		a.Label.Padding = vg.Points(4)
		a.Padding = 0
	}
	p.Legend.TextStyle.Font, p.Legend.TextStyle.Color = sans(fontSize), ink
	return p
}

func sans(size float64) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(size)}
}

// svg draws a plot as an element for a page.
func svg(p *plot.Plot, width, height vg.Length) (string, error) {
	canvas := vgsvg.New(width, height)
	p.Draw(draw.New(canvas))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return "", err
	}
	_, element, ok := strings.Cut(b.String(), "<svg")
	if !ok {
		return "", fmt.Errorf("the plot has no svg element: %.80s", b.String())
	}
	return "<svg" + element, nil
}

// row is a line of a dot plot.
type row struct {
	label     string
	colour    color.RGBA
	mid       float64
	low, high float64
	each      []float64 // single samples
}

// rows draws medians with their intervals, one below the other.
type rows []row

// Plot implements plot.Plotter.
func (r rows) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for i, row := range r {
		at := y(float64(len(r) - 1 - i))
		c.StrokeLine2(draw.LineStyle{Color: grid, Width: vg.Points(0.75)}, c.Min.X, at, c.Max.X, at)
		for _, v := range row.each {
			c.DrawGlyph(draw.GlyphStyle{Color: faint(row.colour), Radius: vg.Points(2.4), Shape: draw.CircleGlyph{}}, vg.Point{X: x(v), Y: at})
		}
		if row.low < row.high {
			low, high := max(x(row.low), c.Min.X), min(x(row.high), c.Max.X)
			c.StrokeLine2(draw.LineStyle{Color: row.colour, Width: vg.Points(1.5)}, low, at, high, at)
		}
		c.DrawGlyph(draw.GlyphStyle{Color: row.colour, Radius: vg.Points(3.6), Shape: draw.CircleGlyph{}}, vg.Point{X: x(row.mid), Y: at})
	}
}

// DataRange implements plot.DataRanger. Intervals do not count: a wide one would
// squeeze all others.
func (r rows) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, xmax = math.Inf(1), math.Inf(-1)
	for _, row := range r {
		for _, v := range append(row.each[:len(row.each):len(row.each)], row.mid) {
			xmin, xmax = min(xmin, v), max(xmax, v)
		}
	}
	return xmin, xmax, -0.5, float64(len(r)) - 0.5
}

// labels are the names of the lines.
func (r rows) labels() plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for i, row := range r {
		ticks = append(ticks, plot.Tick{Value: float64(len(r) - 1 - i), Label: row.label})
	}
	return ticks
}

// dotPlot shows one metric of a case, a line per variant.
func dotPlot(c *Case, m Metric, by map[string]Figure) (string, error) {
	a := metrics[m]
	var lines rows
	for _, variant := range c.having(slices.Concat(columns, beside)) {
		f, ok := by[variant]
		if !ok {
			continue
		}
		f = f.times(a.scale)
		line := row{label: variant, colour: colour(variant), mid: f.Median, low: f.Low, high: f.High}
		for _, v := range f.each {
			line.each = append(line.each, v)
		}
		lines = append(lines, line)
	}
	p := newPlot()
	p.Add(lines)
	p.X.Label.Text = a.title + ", " + a.unit
	p.X.Min = min(0, p.X.Min)
	p.X.Max += (p.X.Max - p.X.Min) * 0.05
	p.X.Tick.Marker = fewTicks{}
	p.Y.Tick.Marker = lines.labels()
	p.Y.Tick.Length, p.Y.Width, p.Y.Padding = 0, 0, vg.Points(6)
	return svg(p, plotWidth, axisHeight+rowHeight*vg.Length(len(lines)))
}

// fewTicks are plot.DefaultTicks without the small ones, their numbers written as in
// the tables.
type fewTicks struct{}

// Ticks implements plot.Ticker.
func (fewTicks) Ticks(lo, hi float64) (out []plot.Tick) {
	for _, t := range (plot.DefaultTicks{}).Ticks(lo, hi) {
		if !t.IsMinor() {
			t.Label = thousands(t.Value)
			out = append(out, t)
		}
	}
	return out
}

// thousands writes a number of an axis.
func thousands(v float64) string {
	if v < 10000 {
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	return strconv.FormatFloat(v/1000, 'g', 4, 64) + "k"
}

// latencyTicks are the tens between which latencies lie, and the twos and fives.
type latencyTicks struct{}

// Ticks implements plot.Ticker.
func (latencyTicks) Ticks(lo, hi float64) (out []plot.Tick) {
	for ten := 1.0; ten <= hi*10; ten *= 10 {
		for _, n := range []float64{1, 2, 5} {
			if v := ten * n; v >= lo && v <= hi {
				out = append(out, plot.Tick{Value: v, Label: thousands(v)})
			}
		}
	}
	return out
}

// shares are the points of a curve of latencies.
var shares = []float64{10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99}

// curve shows the latencies of all repetitions together, as far as there are
// enough samples.
func (c *Case) curve() (string, error) {
	p := newPlot()
	p.X.Label.Text, p.Y.Label.Text = "percentile", "latency, us"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, latencyTicks{}
	p.X.Tick.Marker = plot.ConstantTicks(nil)
	p.Legend.Top, p.Legend.Left = true, true
	lines := 0
	p.Add(levels{})
	for _, variant := range c.having(slices.Concat(columns, beside)) {
		points := c.percentiles(variant)
		if len(points) < 2 {
			continue
		}
		lines++
		l, err := plotter.NewLine(points)
		if err != nil {
			return "", err
		}
		l.Color, l.Width = colour(variant), vg.Points(1.6)
		if !slices.Contains(columns, variant) {
			l.Width = vg.Points(0.8)
			l.Dashes = plotDashes(lines)
		}
		p.Add(l)
		p.Legend.Add(variant, l)
	}
	if lines == 0 {
		return "", nil
	}
	var ticks plot.ConstantTicks
	for _, s := range []float64{50, 90, 99, 99.9, 99.99} {
		if x := nines(s); x <= p.X.Max {
			ticks = append(ticks, plot.Tick{Value: x, Label: fmt.Sprintf("%g", s)})
		}
	}
	p.X.Tick.Marker = ticks
	p.X.Max += 0.05
	return svg(p, plotWidth, curveHigh)
}

// levels draws a faint line at each tick of the vertical axis.
type levels struct{}

// Plot implements plot.Plotter.
func (levels) Plot(c draw.Canvas, p *plot.Plot) {
	_, y := p.Transforms(&c)
	for _, t := range p.Y.Tick.Marker.Ticks(p.Y.Min, p.Y.Max) {
		c.StrokeLine2(draw.LineStyle{Color: grid, Width: vg.Points(0.5)}, c.Min.X, y(t.Value), c.Max.X, y(t.Value))
	}
}

// plotDashes tells lines of one colour apart.
func plotDashes(i int) []vg.Length {
	return []vg.Length{vg.Points(float64(1 + i)), vg.Points(2)}
}

// percentiles are the points of one variant.
func (c *Case) percentiles(variant string) (points plotter.XYs) {
	var all *hdrhistogram.Histogram
	for _, s := range c.valid(variant) {
		if h, err := load.Decode(s.Latency); s.Latency != "" && err == nil {
			if all == nil {
				all = h
			} else {
				all.Merge(h)
			}
		}
	}
	if all == nil {
		return nil
	}
	for _, share := range shares {
		if v := all.ValueAtPercentile(share); enough(all, share) && v > 0 {
			points = append(points, plotter.XY{X: nines(share), Y: float64(v) / 1e3})
		}
	}
	return points
}

// nines spreads percentiles so that each nine has the same room.
func nines(percentile float64) float64 { return -math.Log10(1 - percentile/100) }

// barPlot shows how far figures are from their bars: each over the bar, so that
// right of the line is better.
func barPlot(judged []Judged) (string, error) {
	var lines rows
	for _, j := range judged {
		if j.Figure.N == 0 || j.Figure.Median <= 0 || j.Figure.Low <= 0 {
			continue
		}
		over := func(v float64) float64 {
			if j.Higher() {
				return v / j.Must
			}
			return j.Must / v
		}
		line := row{label: j.Case + ": " + metrics[j.Metric].title, colour: j.colour(), mid: clampFor(over(j.Figure.Median))}
		a, b := over(j.Figure.Low), over(j.Figure.High)
		line.low, line.high = clampFor(min(a, b)), clampFor(max(a, b))
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return "", nil
	}
	p := newPlot()
	p.Add(lines)
	p.X.Scale = plot.LogScale{}
	p.X.Label.Text = "over the bar: right of the line is better"
	p.X.Min, p.X.Max = min(p.X.Min, 0.5)/1.1, max(p.X.Max, 2)*1.1
	p.X.Tick.Marker = plot.ConstantTicks{{Value: 0.25, Label: "1/4"}, {Value: 0.5, Label: "1/2"}, {Value: 1, Label: "the bar"}, {Value: 2, Label: "2 times"}, {Value: 4, Label: "4 times"}, {Value: 8, Label: "8 times"}}
	p.Y.Tick.Marker = lines.labels()
	p.Y.Tick.Length, p.Y.Width, p.Y.Padding = 0, 0, vg.Points(6)
	line, err := plotter.NewLine(plotter.XYs{{X: 1, Y: -0.5}, {X: 1, Y: float64(len(lines)) - 0.5}})
	if err != nil {
		return "", err
	}
	line.Color, line.Width = ink, vg.Points(1)
	p.Add(line)
	p.Y.Tick.Label.XAlign = text.XRight
	return svg(p, wideWidth, axisHeight+rowHeight*vg.Length(len(lines)))
}

// clampFor keeps a ratio within what a plot shows.
func clampFor(v float64) float64 { return max(0.1, min(v, 20)) }

// colour is that of the verdict.
func (j Judged) colour() color.RGBA {
	switch j.Verdict {
	case BarWanted, BarMet:
		return good
	case BarMissed:
		return bad
	}
	return unsure
}
