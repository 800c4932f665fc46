package extauth

import (
	"fmt"
	"strings"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// Decision is what a provider says.
type Decision struct {
	Allowed bool

	// Status, Fields and Body are the answer for the client when it is not allowed.
	Status int
	Fields message.Fields
	Body   string

	// Request is what becomes of an allowed request, Answer what becomes of its
	// answer.
	Request, Answer Changes
}

// Changes are changes to the fields of a message, in this order.
type Changes struct {
	Remove []string
	Change []Change
}

// Change is one field.
type Change struct {
	message.Field
	How How
}

// How is how a field is changed.
type How uint8

const (
	Set         How = iota // it stands for all of its name
	Append                 // it comes after those that are there
	SetIfAbsent            // only where there is none
	SetIfThere             // only where there is one
)

// Empty reports whether nothing changes.
func (c *Changes) Empty() bool { return len(c.Remove)+len(c.Change) == 0 }

// Apply changes fields.
func (c *Changes) Apply(fields *message.Fields) {
	for _, name := range c.Remove {
		fields.Del(name)
	}
	for _, x := range c.Change {
		switch x.How {
		case Append:
			fields.Add(x.Name, x.Value)
		case SetIfAbsent:
			if !fields.Has(x.Name) {
				fields.Add(x.Name, x.Value)
			}
		case SetIfThere:
			if fields.Has(x.Name) {
				fields.Set(x.Name, x.Value)
			}
		case Set:
			fields.Set(x.Name, x.Value)
		}
	}
}

// framing are fields that say how a message is framed or where it goes: no provider
// changes them.
var framing = []string{"content-length", "host", "trailer"}

// changeable says why a provider may not write a field.
func changeable(name, value string) error {
	switch {
	case strings.HasPrefix(name, ":"):
		return fmt.Errorf("the provider changes %s, which is not supported", name)
	case !message.ValidName(name) || !message.ValidValue(value):
		return fmt.Errorf("the provider changes a field in a form that HTTP does not have")
	case isFraming(name):
		return fmt.Errorf("the provider changes %s", strings.ToLower(name))
	}
	return nil
}

// isFraming reports whether a field is one of framing, or about one connection.
func isFraming(name string) bool {
	for _, f := range framing {
		if message.EqualName(f, name) {
			return true
		}
	}
	return message.HopByHop(name)
}

// names are names of fields; a star stands at one end, or alone.
type names []string

// has reports whether a field is meant.
func (n names) has(name string) bool {
	name = strings.ToLower(name)
	for _, want := range n {
		want = strings.ToLower(want)
		switch {
		case strings.HasSuffix(want, "*") && strings.HasPrefix(name, want[:len(want)-1]),
			strings.HasPrefix(want, "*") && strings.HasSuffix(name, want[1:]),
			name == want:
			return true
		}
	}
	return false
}
