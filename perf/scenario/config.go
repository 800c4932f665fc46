package scenario

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/perf/report"
)

// Config says what to measure.
type Config struct {
	// Name begins the names of the labs. Zero means "perf".
	Name string
	// BinDir holds the programs of the mesh; see lab.Config.
	BinDir string
	// Ztunnel is another ztunnel to measure in our place; empty means none.
	Ztunnel string
	// Envoy is the program to measure in the place of our waypoint; empty means none.
	Envoy string
	// App is the command that runs the programs of a pod: it takes --control.
	App []string
	// WireGuard is the command that runs peer.RunWireGuard: it takes --interface.
	// Empty means that there is none.
	WireGuard []string
	// Plan says how long and how often.
	Plan report.Plan
	// Only are the beginnings of names of cases to run; empty means all that
	// the plan has.
	Only []string
	// OursEnv is added to the environment of our ztunnels.
	OursEnv []string
	// Progress is told what is being done; nil means nobody.
	Progress func(string)
}

// The plans that have a name.
var (
	quick = report.Plan{
		Name: "quick", Repetitions: 3, Warm: 300 * time.Millisecond, Window: time.Second, Rest: 5 * time.Second, Changes: 20,
	}
	full = report.Plan{
		Name: "full", Repetitions: 5, Warm: 300 * time.Millisecond, Window: time.Second, Rest: 20 * time.Second, Changes: 100,
	}
	long = report.Plan{
		Name: "long", Repetitions: 9, Warm: 500 * time.Millisecond, Window: 3 * time.Second, Rest: 10 * time.Minute, Changes: 200,
	}
)

// PlanNamed returns the plan of a name.
func PlanNamed(name string) (report.Plan, error) {
	for _, p := range []report.Plan{quick, full, long} {
		if p.Name == name {
			return p, nil
		}
	}
	return report.Plan{}, fmt.Errorf("plan %q: want %s, %s or %s", name, quick.Name, full.Name, long.Name)
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() (Config, error) {
	if c.Plan.Repetitions < 1 || c.Plan.Window <= 0 {
		return Config{}, fmt.Errorf("plan %+v: want repetitions and a window", c.Plan)
	}
	for _, p := range []*string{&c.Ztunnel, &c.Envoy} {
		if *p == "" {
			continue
		}
		path, err := filepath.Abs(*p)
		if err != nil {
			return Config{}, err
		}
		if info, err := os.Stat(path); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return Config{}, fmt.Errorf("%s is not a program: name one that was built elsewhere", path)
		}
		*p = path
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	c.Name = cmp.Or(c.Name, "perf")
	c.Plan.Name = cmp.Or(c.Plan.Name, "own")
	return c, nil
}

// wants tells whether a case is to run.
func (c Config) wants(name string) bool {
	return len(c.Only) == 0 || slices.ContainsFunc(c.Only, func(p string) bool { return begins(name, p) })
}

// begins says whether p is the beginning of a name, and not of a longer number in it.
func begins(name, p string) bool {
	rest, ok := strings.CutPrefix(name, p)
	digit := func(s string, i int) bool { return i >= 0 && i < len(s) && '0' <= s[i] && s[i] <= '9' }
	return ok && !(digit(p, len(p)-1) && digit(rest, 0))
}
