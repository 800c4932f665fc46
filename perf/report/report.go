package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// format is raised when an older program could not read what a newer one has
// written.
const format = 1

// Report is one run of the harness.
type Report struct {
	Format   int       `json:"format"`
	Started  time.Time `json:"started"`
	Seconds  float64   `json:"seconds"`
	Machine  Machine   `json:"machine"`
	Programs []Program `json:"programs"`
	Plan     Plan      `json:"plan"`
	Missing  []Missing `json:"missing,omitempty"`
	Cases    []*Case   `json:"cases"`
}

// Machine says where a run took place.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memoryBytes"`
	Kernel string `json:"kernel"`
	System string `json:"system"`
	Go     string `json:"go"`
}

// Program is one that was measured.
type Program struct {
	Variant string `json:"variant"`
	Version string `json:"version"`
}

// Plan says how long and how often.
type Plan struct {
	Name        string        `json:"name"`
	Repetitions int           `json:"repetitions"`
	Warm        time.Duration `json:"warmNanoseconds"`
	Window      time.Duration `json:"windowNanoseconds"`
	// Rest is how long memory is left alone after load has gone, Changes how often
	// the control plane is told of one.
	Rest    time.Duration `json:"restNanoseconds"`
	Changes int           `json:"changes"`
}

// Missing is a yardstick that was not there.
type Missing struct {
	Peer string `json:"peer"`
	Why  string `json:"why"`
}

// Case is one load on one way through the mesh.
type Case struct {
	Name    string    `json:"name"`  // short, unique, for scripts
	Title   string    `json:"title"` // for people
	Samples []*Sample `json:"samples"`
}

// Sample is one variant in one repetition of a case.
type Sample struct {
	Variant    string             `json:"variant"`
	Repetition int                `json:"repetition"`
	Values     map[Metric]float64 `json:"values"`
	Latency    string             `json:"latency,omitempty"`  // HdrHistogram of nanoseconds, V2, base64
	Lateness   string             `json:"lateness,omitempty"` // of the generator, the same
	// Series are values of what happens seldom, in seconds.
	Series map[Series][]float64 `json:"series,omitempty"`
	// Others is the share of the machine that other programs took meanwhile.
	Others float64 `json:"others"`
	// Processes is the processor time of each program, in seconds.
	Processes map[string]float64 `json:"processes,omitempty"`
	// Invalid says why no figure may use it; empty means that it counts.
	Invalid string `json:"invalid,omitempty"`
}

// The variants that each report may have. None is the yardstick of what the mesh
// adds, Ours what is judged, Peer what it is judged against. The others carry
// bytes and are no mesh.
const (
	None          = "none"
	Ours          = "ours"
	OursEncrypted = "ours-encrypted"
	Peer          = "ztunnel"
	// Envoy stands in the place of a waypoint, and there it is the peer; None is then
	// the same mesh without a waypoint.
	Envoy = "envoy"

	HAProxy     = "haproxy"
	HAProxyTLS  = "haproxy-tls"
	Nginx       = "nginx"
	NginxTLS    = "nginx-tls"
	WireGuardGo = "wireguard-go"
	WireGuard   = "wireguard"
)

// Case finds a case by name; nil when there is none.
func (r *Report) Case(name string) *Case {
	for _, c := range r.Cases {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Variants lists the variants of a case in the order in which they ran.
func (c *Case) Variants() []string {
	var names []string
	seen := map[string]bool{}
	for _, s := range c.Samples {
		if !seen[s.Variant] {
			seen[s.Variant] = true
			names = append(names, s.Variant)
		}
	}
	return names
}

// valid returns the samples of a variant that count, by repetition.
func (c *Case) valid(variant string) map[int]*Sample {
	out := map[int]*Sample{}
	for _, s := range c.Samples {
		if s.Variant == variant && s.Invalid == "" {
			out[s.Repetition] = s
		}
	}
	return out
}

// Write writes a report as JSON.
func (r *Report) Write(path string) error {
	r.Format = format
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}

// Read reads what Write has written.
func Read(path string) (*Report, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// parse reads a report and refuses one that would mislead.
func parse(raw []byte) (*Report, error) {
	var r Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, err
	}
	if r.Format != format {
		return nil, fmt.Errorf("format %d, want %d: written by another version", r.Format, format)
	}
	for _, c := range r.Cases {
		if c == nil {
			return nil, fmt.Errorf("a case that is null")
		}
		for _, s := range c.Samples {
			if err := s.check(); err != nil {
				return nil, fmt.Errorf("case %s: %w", c.Name, err)
			}
		}
	}
	return &r, nil
}

// check refuses what this version does not know.
func (s *Sample) check() error {
	if s == nil {
		return errors.New("a sample that is null")
	}
	for m := range s.Values {
		if _, ok := metrics[m]; !ok {
			return fmt.Errorf("unknown metric %q", m)
		}
	}
	for name := range s.Series {
		switch name {
		case SeriesCold, SeriesAdd, SeriesFirstByte, SeriesChange:
		default:
			return fmt.Errorf("unknown series %q", name)
		}
	}
	return nil
}
