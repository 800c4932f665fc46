package routes

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// Result is what comes of one object.
type Result struct {
	// Routes are for requests, Streams for connections that nobody reads.
	Routes  []*waypointapi.Route
	Streams []*waypointapi.StreamRoute
	// Unresolved says of each backend that is not there, or that the object may
	// not name, why; with the reason that the Gateway API has for it.
	Unresolved []Problem
	// Problems are fields that cannot be done; BadRules is how many of the rules
	// have any, of Rules in all.
	Problems        []Problem
	BadRules, Rules int
	// Incompatible reports that filters of one rule contradict each other.
	Incompatible bool
	// Notes are fields that are understood, and mean nothing here.
	Notes []Problem
}

// Problem is what is wrong with one field.
type Problem struct{ Path, Reason, Text string }

// String is "path: text".
func (p Problem) String() string { return p.Path + ": " + p.Text }

// Reasons of backends that cannot be used. Source: Gateway API, RouteConditionReason.
const (
	ReasonNotFound     = string(gateway.RouteReasonBackendNotFound)
	ReasonInvalidKind  = string(gateway.RouteReasonInvalidKind)
	ReasonNotPermitted = string(gateway.RouteReasonRefNotPermitted)
)

// Backend is a service that a route names.
type Backend struct {
	// Service is its resource name.
	Service string
	// Problem is why it cannot be used; the zero Problem when it can.
	Problem Problem
}

// Resolver finds services: by the kind and group that a reference gives, its name,
// and its namespace. port 0 means that the reference names none.
type Resolver func(group, kind, namespace, name string, port uint32) Backend

// Extensions finds what a filter of type ExtensionRef refers to, by group, kind and name:
// what to do about requests, or why that cannot be done.
type Extensions func(group, kind, name string) (do *waypointapi.Filter, problem string)

// converter collects what is found on the way.
type converter struct {
	Result
	namespace string
	resolve   Resolver
	extend    Extensions // nil: there are none
	before    int        // problems before the rule that is translated
}

// begin begins a rule.
func (c *converter) begin() { c.before = len(c.Problems) }

// end ends one of so many rules.
func (c *converter) end(rules int) {
	c.Rules = rules
	if len(c.Problems) > c.before {
		c.BadRules++
	}
}

// ruleName is what a rule is called in records.
func ruleName(kind string, o *metav1.ObjectMeta, i int, name *gateway.SectionName) string {
	text := fmt.Sprintf("%s %s/%s[%d]", kind, o.Namespace, o.Name, i)
	if name != nil {
		text += " " + string(*name)
	}
	return text
}

// ignoreHostnames notes that host names have no meaning for routes of services.
// Source: Gateway API, GEP-1294, "hostnames field".
func (c *converter) ignoreHostnames(names []gateway.Hostname) {
	if len(names) > 0 {
		c.Notes = append(c.Notes, Problem{Path: "spec.hostnames", Text: "means nothing where the parent is a Service: compare the header Host in matches"})
	}
}

// session translates how requests of one client stay at one endpoint. Source:
// Gateway API, SessionPersistence.
func (c *converter) session(path string, s *gateway.SessionPersistence) *waypointapi.Session {
	if s == nil {
		return nil
	}
	out := &waypointapi.Session{
		Name: deref(s.SessionName), AbsoluteTimeout: c.duration(path+".absoluteTimeout", s.AbsoluteTimeout),
		Header: s.Type != nil && *s.Type == gateway.HeaderBasedSessionPersistence,
	}
	if out.Name == "" {
		out.Name = "ambit-session"
	}
	if s.Type != nil && *s.Type != gateway.HeaderBasedSessionPersistence && *s.Type != gateway.CookieBasedSessionPersistence {
		c.problem(path+".type", "%q is not known", *s.Type)
	}
	if s.CookieConfig != nil && s.CookieConfig.LifetimeType != nil && *s.CookieConfig.LifetimeType == gateway.PermanentCookieLifetimeType {
		out.Permanent = true
		if out.AbsoluteTimeout == nil {
			c.problem(path+".absoluteTimeout", "is missing: a permanent cookie needs one")
		}
	}
	return out
}

// problem notes a field that cannot be done.
func (c *converter) problem(path, format string, args ...any) {
	c.Problems = append(c.Problems, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
}

// duration reads a duration of the Gateway API; nil when there is none, or when it
// is zero, which means no limit.
func (c *converter) duration(path string, d *gateway.Duration) *durationpb.Duration {
	if d == nil {
		return nil
	}
	v, err := time.ParseDuration(string(*d))
	if err != nil || v < 0 {
		c.problem(path, "%q is no duration", *d)
		return nil
	}
	if v == 0 {
		return nil
	}
	return durationpb.New(v)
}

// backend translates a reference to a service. Path is where it stands.
func (c *converter) backend(path string, ref gateway.BackendObjectReference, weight uint32) *waypointapi.Backend {
	group, kind, namespace := "", "Service", c.namespace
	if ref.Group != nil {
		group = string(*ref.Group)
	}
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace)
	}
	port := uint32(0)
	if ref.Port != nil {
		port = uint32(*ref.Port)
	}
	found := c.resolve(group, kind, namespace, string(ref.Name), port)
	b := &waypointapi.Backend{Service: found.Service, Port: port, Weight: weight}
	if found.Problem != (Problem{}) {
		found.Problem.Path = path
		c.Unresolved = append(c.Unresolved, found.Problem)
		b.Broken = found.Problem.Text
	}
	return b
}

// broken is a filter that answers 500: in place of one that cannot be done.
func broken() *waypointapi.Filter {
	return &waypointapi.Filter{Kind: &waypointapi.Filter_Answer{Answer: &waypointapi.DirectAnswer{Status: 500, Body: []byte("route is not supported")}}}
}

// Short ways to write comparisons.
func exactly(s string) *waypointapi.StringMatch {
	return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Exact{Exact: s}}
}

func regex(s string) *waypointapi.StringMatch {
	return &waypointapi.StringMatch{Kind: &waypointapi.StringMatch_Regex{Regex: s}}
}
