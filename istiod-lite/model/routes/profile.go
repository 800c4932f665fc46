package routes

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// Profile is a ServiceProfile, as the users of another mesh write it.
type Profile struct {
	Namespace, Name string
	Routes          []ProfileRoute
	RetryPercent    uint32 // of the budget; 0: the default
	RetriesPerSec   uint32
}

// ProfileRoute is one route of a profile.
type ProfileRoute struct {
	Name      string
	Condition *ProfileCondition
	Retryable bool
	Timeout   *durationpb.Duration
}

// ProfileCondition is what a request has to be.
type ProfileCondition struct {
	PathRegex, Method string
	All, Any          []ProfileCondition
	Not               *ProfileCondition
}

// FromProfile translates a ServiceProfile: its routes in order, then all other
// requests.
func FromProfile(p *Profile, service string) Result {
	c := &converter{namespace: p.Namespace}
	itself := []*waypointapi.Backend{{Service: service, Weight: 1}}
	for i, r := range p.Routes {
		out := &waypointapi.Route{Name: fmt.Sprintf("ServiceProfile %s/%s %s", p.Namespace, p.Name, r.Name), Timeout: r.Timeout, Backends: itself}
		path := fmt.Sprintf("spec.routes[%d].condition", i)
		out.Matches = c.condition(path, r.Condition)
		if len(out.Matches) == 0 {
			continue
		}
		if r.Retryable {
			out.Retry = &waypointapi.Retry{Attempts: maxProfileRetries, ServerError: true, Reset_: true, ConnectFailure: true, BudgetPercent: p.RetryPercent, BudgetPerSecond: p.RetriesPerSec}
		}
		c.Routes = append(c.Routes, out)
	}
	c.Routes = append(c.Routes, &waypointapi.Route{Name: fmt.Sprintf("ServiceProfile %s/%s, no route", p.Namespace, p.Name), Backends: itself})
	return c.Result
}

// maxProfileRetries bounds retries of one request; how many there are in all is the
// budget's to say.
const maxProfileRetries = 3

// condition translates a condition: into several matches when any of several will
// do, which waypoints find faster than by looking at one after the other.
func (c *converter) condition(path string, p *ProfileCondition) []*waypointapi.RouteMatch {
	switch {
	case p == nil:
		c.problem(path, "missing: the route matches nothing")
		return nil
	case p.Not == nil && len(p.All) == 0 && len(p.Any) == 0:
		return []*waypointapi.RouteMatch{{Path: wholePath(p.PathRegex), Method: methodOf(p.Method)}}
	case p.Not == nil && len(p.All) == 0 && p.PathRegex == "" && p.Method == "":
		var all []*waypointapi.RouteMatch
		for i := range p.Any {
			all = append(all, c.condition(fmt.Sprintf("%s.any[%d]", path, i), &p.Any[i])...)
		}
		return all
	case p.depth() > deepest:
		c.problem(path, "conditions stand in each other more than %d deep: the route matches nothing", deepest)
		return nil
	}
	return []*waypointapi.RouteMatch{{Condition: p.tree()}}
}

// deepest bounds how deep conditions stand in each other. Waypoints refuse the whole
// service somewhat later.
const deepest = 30

// depth is how many conditions stand in each other.
func (p *ProfileCondition) depth() int {
	most := 0
	for i := range p.All {
		most = max(most, p.All[i].depth())
	}
	for i := range p.Any {
		most = max(most, p.Any[i].depth())
	}
	if p.Not != nil {
		most = max(most, p.Not.depth())
	}
	return most + 1
}

// tree translates a condition and what stands in it.
func (p *ProfileCondition) tree() *waypointapi.Condition {
	out := &waypointapi.Condition{Path: wholePath(p.PathRegex), Method: methodOf(p.Method)}
	for i := range p.All {
		out.All = append(out.All, p.All[i].tree())
	}
	for i := range p.Any {
		out.Any = append(out.Any, p.Any[i].tree())
	}
	if p.Not != nil {
		out.Not = p.Not.tree()
	}
	return out
}

// wholePath compares whole paths; "" is any.
func wholePath(regex string) *waypointapi.Path {
	if regex == "" {
		return nil
	}
	return &waypointapi.Path{Kind: &waypointapi.Path_Regex{Regex: strings.TrimSuffix(strings.TrimPrefix(regex, "^"), "$")}}
}

// methodOf compares methods; "" is any.
func methodOf(method string) *waypointapi.StringMatch {
	if method == "" {
		return nil
	}
	return exactly(method)
}
