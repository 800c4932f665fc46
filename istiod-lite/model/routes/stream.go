package routes

import (
	"fmt"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// TCP translates a TCPRoute. Nothing tells its connections apart, so only its first
// rule can ever be taken.
func TCP(r *gateway.TCPRoute, resolve Resolver) Result {
	c := &converter{namespace: r.Namespace, resolve: resolve}
	for i := range r.Spec.Rules {
		rule := &r.Spec.Rules[i]
		path := fmt.Sprintf("spec.rules[%d]", i)
		c.begin()
		if i > 0 {
			c.problem(path, "is never taken: the first rule takes every connection")
		} else {
			name := ruleName("TCPRoute", &r.ObjectMeta, i, rule.Name)
			c.Streams = append(c.Streams, &waypointapi.StreamRoute{Name: name, Backends: c.backends(path, rule.BackendRefs)})
		}
		c.end(len(r.Spec.Rules))
	}
	return c.Result
}

// TLS translates a TLSRoute: a rule for each name of a server. Of several rules
// only the first can be taken.
func TLS(r *gateway.TLSRoute, resolve Resolver) Result {
	c := &converter{namespace: r.Namespace, resolve: resolve}
	for i := range r.Spec.Rules {
		rule := &r.Spec.Rules[i]
		path := fmt.Sprintf("spec.rules[%d]", i)
		c.begin()
		if i > 0 {
			c.problem(path, "is never taken: the first rule takes every connection of these host names")
		} else {
			out := &waypointapi.StreamRoute{Name: ruleName("TLSRoute", &r.ObjectMeta, i, rule.Name), Backends: c.backends(path, rule.BackendRefs)}
			for _, h := range r.Spec.Hostnames {
				out.Hostnames = append(out.Hostnames, string(h))
			}
			c.Streams = append(c.Streams, out)
		}
		c.end(len(r.Spec.Rules))
	}
	return c.Result
}

// backends translates references to services.
func (c *converter) backends(path string, refs []gateway.BackendRef) []*waypointapi.Backend {
	var all []*waypointapi.Backend
	for i := range refs {
		all = append(all, c.backend(fmt.Sprintf("%s.backendRefs[%d]", path, i), refs[i].BackendObjectReference, weightOf(refs[i].Weight)))
	}
	return all
}
