package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Printer writes results for a person.
type Printer struct {
	Out    io.Writer
	Colour bool
}

// Escape sequences of terminals. Source: ECMA-48, section 8.3.117.
const (
	green = "\x1b[32m"
	red   = "\x1b[31m"
	faint = "\x1b[2m"
	plain = "\x1b[0m"
)

// Result prints one result: a line with the promise, a line with the evidence.
func (p Printer) Result(r Result) {
	word, tint := "ok  ", green
	if !r.Passed {
		word, tint = "FAIL", red
	}
	name, text := r.Line, r.Evidence
	if r.Fault != "" {
		name = r.Fault
	}
	if !r.Passed {
		text = r.Error
	}
	fmt.Fprintf(p.Out, "%s  %-21s  %s %s\n", p.tint(tint, word), name, r.Says, p.tint(faint, fmt.Sprintf("(%.1f s)", r.Seconds)))
	for line := range strings.Lines(text) {
		fmt.Fprintf(p.Out, "      %s\n", strings.TrimRight(line, "\n"))
	}
}

// Summary prints the last line.
func (p Printer) Summary(results []Result) {
	passed, failed := Count(results)
	tint := green
	if failed > 0 || passed == 0 {
		tint = red
	}
	fmt.Fprintln(p.Out, p.tint(tint, fmt.Sprintf("%d passed, %d failed", passed, failed)))
}

func (p Printer) tint(code, text string) string {
	if !p.Colour {
		return text
	}
	return code + text + plain
}

// Count counts results.
func Count(results []Result) (passed, failed int) {
	for _, r := range results {
		if r.Passed {
			passed++
		} else {
			failed++
		}
	}
	return passed, failed
}

// WriteJSON writes all results as one object.
func WriteJSON(out io.Writer, results []Result, seconds float64) error {
	passed, failed := Count(results)
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(struct {
		Results []Result `json:"results"`
		Passed  int      `json:"passed"`
		Failed  int      `json:"failed"`
		Seconds float64  `json:"seconds"`
	}{append([]Result{}, results...), passed, failed, seconds})
}
