package match

import (
	"errors"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// condition is a tree of comparisons of the path and the method. Nil always holds.
type condition struct {
	path     pathMatch
	method   *Text // nil: any
	all, any []*condition
	not      *condition // nil: none
}

// maxDepth bounds how deep conditions stand in each other: our choice.
const maxDepth = 32

// errDepth is why a condition is refused that is too deep.
var errDepth = errors.New("conditions stand in each other too deep")

// compileCondition prepares a condition at a depth; nil stays nil.
func compileCondition(c *waypointapi.Condition, depth int) (*condition, error) {
	switch {
	case c == nil:
		return nil, nil
	case depth > maxDepth:
		return nil, errDepth
	}
	out := &condition{}
	var err error
	if out.path, err = compilePath(c.GetPath()); err != nil {
		return nil, err
	}
	if c.GetMethod() != nil {
		text, err := CompileText(c.GetMethod())
		if err != nil {
			return nil, err
		}
		out.method = &text
	}
	for _, part := range []struct {
		from []*waypointapi.Condition
		into *[]*condition
	}{{c.GetAll(), &out.all}, {c.GetAny(), &out.any}} {
		for _, one := range part.from {
			compiled, err := compileCondition(one, depth+1)
			if err != nil {
				return nil, err
			}
			*part.into = append(*part.into, compiled)
		}
	}
	out.not, err = compileCondition(c.GetNot(), depth+1)
	return out, err
}

// holds reports whether a request is what the condition wants.
func (c *condition) holds(req *message.Request) bool {
	if c == nil {
		return true
	}
	if !c.path.matches(req.Path) || c.method != nil && !c.method.Matches(req.Method) || c.not != nil && c.not.holds(req) {
		return false
	}
	for _, one := range c.all {
		if !one.holds(req) {
			return false
		}
	}
	for _, one := range c.any {
		if one.holds(req) {
			return true
		}
	}
	return len(c.any) == 0
}
