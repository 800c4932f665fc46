package check

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Level says how bad a finding is.
type Level string

const (
	Error   Level = "error"   // something does not work, or is not safe
	Warning Level = "warning" // it works, and will not for long or not for everybody
	Info    Level = "info"    // good to know
)

// rank orders levels, the worst first.
func (l Level) rank() int { return slices.Index([]Level{Error, Warning, Info}, l) }

// Finding is one thing that is wrong.
type Finding struct {
	Level Level  `json:"level"`
	Check string `json:"check"` // which check says it
	Where string `json:"where"` // the object: kind and name
	What  string `json:"what"`
	Do    string `json:"do"`              // what to do about it; may be empty
	Patch string `json:"patch,omitempty"` // YAML that does it with kubectl apply; may be empty

	// Blocks tells that an installation must not go on.
	Blocks bool `json:"blocks,omitempty"`
}

// Report is what all checks found.
type Report struct {
	KubeVersion string    `json:"kubernetes"`
	Installed   string    `json:"installed"` // version; empty: not installed
	Checks      []string  `json:"checks"`    // that were made
	Findings    []Finding `json:"findings"`
}

// check is one look at the world.
type check struct {
	name string
	run  func(w *World, now time.Time) []Finding
}

// checks are all of them, in the order in which their findings are read.
func checks() []check {
	return []check{
		{"kubernetes", kubernetes},
		{"nodes", nodes},
		{"other-meshes", otherMeshes},
		{"sidecars", sidecars},
		{"parts", parts},
		{"agents", agents},
		{"enrolment", enrolment},
		{"network-policies", networkPolicies},
		{"policies", policies},
		{"waypoints", waypointsReady},
		{"around-waypoints", waysAround},
		{"ca", authority},
		{"versions", versions},
	}
}

// Run makes all checks.
func Run(w *World, now time.Time) Report {
	r := Report{KubeVersion: w.KubeVersion, Findings: []Finding{}}
	if w.Inventory != nil {
		r.Installed = w.Inventory.Version
	}
	for _, c := range checks() {
		r.Checks = append(r.Checks, c.name)
		for _, f := range c.run(w, now) {
			f.Check = c.name
			r.Findings = append(r.Findings, f)
		}
	}
	for _, problem := range w.Problems {
		r.Findings = append(r.Findings, Finding{Level: Warning, Check: "reading", Where: "cluster", What: problem, Do: "give yourself the right to read it, or ask who has it"})
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(a.Level.rank()-b.Level.rank(), slices.Index(r.Checks, a.Check)-slices.Index(r.Checks, b.Check), cmp.Compare(a.Where, b.Where))
	})
	return r
}

// Count is how many findings have a level.
func (r Report) Count(l Level) (n int) {
	for _, f := range r.Findings {
		if f.Level == l {
			n++
		}
	}
	return n
}

// Blocking are the findings that forbid an installation.
func (r Report) Blocking() (out []Finding) {
	for _, f := range r.Findings {
		if f.Blocks {
			out = append(out, f)
		}
	}
	return out
}

// Write writes the report as people read it.
func (r Report) Write(w io.Writer) error {
	if err := WriteFindings(w, r.Findings); err != nil {
		return err
	}
	installed := "not installed"
	if r.Installed != "" {
		installed = "ambit " + r.Installed
	}
	_, err := fmt.Fprintf(w, "Kubernetes %s, %s: %d checks, %d errors, %d warnings, %d remarks\n",
		r.KubeVersion, installed, len(r.Checks), r.Count(Error), r.Count(Warning), r.Count(Info))
	return err
}

// WriteFindings writes findings as a table: under each what to do.
func WriteFindings(w io.Writer, findings []Finding) error {
	if len(findings) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", strings.ToUpper(string(f.Level)), f.Where, firstLine(f.What))
		for _, line := range restLines(f.What) {
			fmt.Fprintf(t, "\t\t%s\n", line)
		}
		if f.Do != "" {
			fmt.Fprintf(t, "\t\tdo: %s\n", f.Do)
		}
		if f.Patch != "" {
			fmt.Fprintf(t, "\t\tas YAML: ambit check --patches\n")
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// firstLine is the first line of text.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// restLines are the others.
func restLines(text string) []string {
	_, rest, more := strings.Cut(text, "\n")
	if !more {
		return nil
	}
	return strings.Split(rest, "\n")
}

// few names at most n of names, and how many more there are.
func few(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}
