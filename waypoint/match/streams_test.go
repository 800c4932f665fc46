package match

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// scanStreams is the naive oracle: the route whose name says most, the first among
// equals.
func scanStreams(t *waypointapi.StreamTable, name string) (int, bool) {
	best, most := -1, -1
	name = strings.ToLower(name)
	for i, r := range t.GetRoutes() {
		if len(r.GetHostnames()) == 0 && most < 0 {
			best, most = i, 0
		}
		for _, h := range r.GetHostnames() {
			h = strings.ToLower(h)
			score := -1
			if rest, wild := strings.CutPrefix(h, "*"); wild && strings.HasSuffix(name, rest) && len(name) > len(rest) {
				score = len(rest)
			} else if h == name {
				score = 1000
			}
			if score > most {
				best, most = i, score
			}
		}
	}
	return best, best >= 0
}

func TestStreamsAgainstScan(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	name := func() string {
		labels := make([]string, 1+r.IntN(4))
		for i := range labels {
			labels[i] = []string{"a", "b", "C"}[r.IntN(3)]
		}
		return strings.Join(labels, ".")
	}
	for range 500 {
		table := &waypointapi.StreamTable{}
		for range 1 + r.IntN(8) {
			route := &waypointapi.StreamRoute{}
			for range r.IntN(4) {
				route.Hostnames = append(route.Hostnames, []string{"", "*."}[r.IntN(2)]+name())
			}
			table.Routes = append(table.Routes, route)
		}
		s, err := CompileStreams(table)
		if err != nil {
			t.Fatal(err)
		}
		for _, asked := range []string{"", name(), name(), name(), name()} {
			got, ok := s.Lookup(asked)
			if want, found := scanStreams(table, asked); ok != found || got != want {
				t.Fatalf("%q: index %d %v, scan %d %v in %v", asked, got, ok, want, found, table)
			}
		}
	}
}

func TestStreamNamesThatAreNone(t *testing.T) {
	for _, host := range []string{"*", "*.", "a.*.b", "*a", ".a", "**.a"} {
		if _, err := CompileStreams(&waypointapi.StreamTable{Routes: []*waypointapi.StreamRoute{{Hostnames: []string{host}}}}); err == nil {
			t.Errorf("%q: no error", host)
		}
	}
}

// BenchmarkStreams measures one look-up among so many routes.
func BenchmarkStreams(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		table := &waypointapi.StreamTable{}
		for i := range n {
			table.Routes = append(table.Routes, &waypointapi.StreamRoute{Hostnames: []string{fmt.Sprintf("%s%d.example.com", []string{"", "*.x"}[i%2], i)}})
		}
		s, err := CompileStreams(table)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Lookup("a.x1.example.com")
			}
		})
	}
}
