package match

import (
	"math/rand/v2"
	"regexp"
	"testing"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// truth is the oracle of conditions: what a text says of a request, in the words of
// logic.
func truth(c *waypointapi.Condition, method, target string) bool {
	if c.Path != nil && !regexp.MustCompile("^(?:"+c.Path.GetRegex()+")$").MatchString(target) {
		return false
	}
	if c.Method != nil && c.Method.GetExact() != method {
		return false
	}
	holding := 0
	for _, one := range c.All {
		if truth(one, method, target) {
			holding++
		}
	}
	hits := 0
	for _, one := range c.Any {
		if truth(one, method, target) {
			hits++
		}
	}
	return holding == len(c.All) && (hits > 0 || len(c.Any) == 0) && (c.Not == nil || !truth(c.Not, method, target))
}

// A route is taken by requests for which its condition is true, and by no others.
func TestConditionsEqualOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var some func(depth int) *waypointapi.Condition
	some = func(depth int) *waypointapi.Condition {
		c := &waypointapi.Condition{}
		if r.IntN(2) == 0 {
			c.Path = path("regex", []string{"/a", "/a/.*", "/[ab]", ".*"}[r.IntN(4)])
		}
		if r.IntN(2) == 0 {
			c.Method = exactly([]string{"GET", "PUT"}[r.IntN(2)])
		}
		if depth == 0 {
			return c
		}
		for range r.IntN(3) {
			c.All = append(c.All, some(depth-1))
		}
		for range r.IntN(3) {
			c.Any = append(c.Any, some(depth-1))
		}
		if r.IntN(2) == 0 {
			c.Not = some(depth - 1)
		}
		return c
	}
	seen := map[bool]int{}
	for range 5_000 {
		c := some(r.IntN(4))
		table, err := Compile(&waypointapi.RouteTable{InOrder: true, Routes: []*waypointapi.Route{{Matches: []*waypointapi.RouteMatch{{Condition: c}}}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{"GET", "PUT", "POST"} {
			for _, target := range []string{"/", "/a", "/b", "/a/b"} {
				_, got := table.Lookup(request(method, target), "")
				want := truth(c, method, target)
				if seen[want]++; got != want {
					t.Fatalf("%s %s: %v, want %v of %v", method, target, got, want, c)
				}
			}
		}
	}
	if seen[true] < 1000 || seen[false] < 1000 {
		t.Errorf("true and false: %v", seen)
	}
}

// What is too deep, or cannot be compared with, is refused.
func TestBadConditions(t *testing.T) {
	deep := &waypointapi.Condition{}
	for range maxDepth + 1 {
		deep = &waypointapi.Condition{Not: deep}
	}
	for name, c := range map[string]*waypointapi.Condition{
		"too deep": deep, "a bad expression": {Path: path("regex", "(")}, "a bad method": {All: []*waypointapi.Condition{{Method: regex("(")}}},
	} {
		if _, err := Compile(&waypointapi.RouteTable{Routes: []*waypointapi.Route{{Matches: []*waypointapi.RouteMatch{{Condition: c}}}}}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
