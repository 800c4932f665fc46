package match

import (
	"fmt"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// Streams is the compiled routes of connections of one table. It never changes.
type Streams struct {
	any   int            // the route of every connection; -1: there is none
	exact map[string]int // by server name
	below map[string]int // by what follows the star, from its dot on
}

// CompileStreams prepares a table. Of routes that ask for the same the first
// counts.
func CompileStreams(t *waypointapi.StreamTable) (*Streams, error) {
	s := &Streams{any: -1, exact: map[string]int{}, below: map[string]int{}}
	for i, r := range t.GetRoutes() {
		if len(r.GetHostnames()) == 0 && s.any < 0 {
			s.any = i
		}
		for _, host := range r.GetHostnames() {
			names, key := s.exact, strings.ToLower(host)
			if rest, ok := strings.CutPrefix(key, "*"); ok {
				names, key = s.below, rest
			}
			wild := len(key) < len(host)
			if key == "" || key == "." || strings.Contains(key, "*") || wild != (key[0] == '.') {
				return nil, fmt.Errorf("route %d (%s): %q is no name of a server", i, r.GetName(), host)
			}
			if _, taken := names[key]; !taken {
				names[key] = i
			}
		}
	}
	return s, nil
}

// AsksForName reports whether the server name that TLS asks for makes a
// difference.
func (s *Streams) AsksForName() bool { return len(s.exact)+len(s.below) > 0 }

// Lookup finds the route of a connection that asks for a server name; "" when it
// asks for none. ok is false when none matches.
func (s *Streams) Lookup(name string) (route int, ok bool) {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if i, ok := s.exact[name]; ok {
		return i, true
	}
	for at := range len(name) {
		if name[at] == '.' && at > 0 {
			if i, ok := s.below[name[at:]]; ok {
				return i, true
			}
		}
	}
	return s.any, s.any >= 0
}
