package filter

import (
	"fmt"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// change adds, sets and removes fields.
type change struct {
	set, add []message.Field
	remove   []string
}

// compileChange refuses fields that frame a message or are about a connection.
func compileChange(h *waypointapi.HeaderChange) (change, error) {
	var c change
	check := func(name string) error {
		if !message.ValidName(name) || message.HopByHop(name) || message.EqualName(name, "content-length") {
			return fmt.Errorf("header %q cannot be changed", name)
		}
		return nil
	}
	for _, l := range []struct {
		from []*waypointapi.Header
		into *[]message.Field
	}{{h.GetSet(), &c.set}, {h.GetAdd(), &c.add}} {
		for _, f := range l.from {
			if err := check(f.GetName()); err != nil {
				return change{}, err
			}
			if !message.ValidValue(f.GetValue()) {
				return change{}, fmt.Errorf("header %q: value with a control character or space around it", f.GetName())
			}
			*l.into = append(*l.into, message.Field{Name: f.GetName(), Value: f.GetValue()})
		}
	}
	for _, name := range h.GetRemove() {
		if err := check(name); err != nil {
			return change{}, err
		}
		c.remove = append(c.remove, name)
	}
	return c, nil
}

// apply changes a request. The host is a field to users, and not to us.
func (c change) apply(p *Pass) *Answer {
	for _, f := range c.set {
		if message.EqualName(f.Name, "host") {
			if host, _, err := message.CanonicalHost(f.Value); err == nil {
				p.Request.Authority, p.Request.Host = f.Value, host
			}
		}
	}
	c.change(&p.Request.Fields)
	p.Request.Fields.Del("host")
	return nil
}

// change changes fields.
func (c *change) change(fields *message.Fields) {
	for _, f := range c.set {
		fields.Set(f.Name, f.Value)
	}
	for _, f := range c.add {
		fields.Add(f.Name, f.Value)
	}
	for _, name := range c.remove {
		fields.Del(name)
	}
}
