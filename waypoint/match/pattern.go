package match

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// Pattern is a comparison of a path in policies.
type Pattern struct {
	text     Text
	segments []string // when it is not a text
}

// CompilePattern prepares a comparison.
func CompilePattern(p *waypointapi.PathPattern) (Pattern, error) {
	switch k := p.GetKind().(type) {
	case *waypointapi.PathPattern_Text:
		t, err := CompileText(k.Text)
		return Pattern{text: t}, err
	case *waypointapi.PathPattern_Segments:
		segments := k.Segments.GetSegments()
		if len(segments) == 0 {
			return Pattern{}, fmt.Errorf("path of no segments")
		}
		if n := slices.Index(segments, "**"); n >= 0 && slices.Contains(segments[n+1:], "**") {
			return Pattern{}, fmt.Errorf("path with more than one **")
		}
		return Pattern{segments: segments}, nil
	}
	return Pattern{}, fmt.Errorf("path comparison of no known kind")
}

// CompilePatterns prepares a list.
func CompilePatterns(list []*waypointapi.PathPattern) ([]Pattern, error) {
	var out []Pattern
	for i, p := range list {
		c, err := CompilePattern(p)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// Matches compares a path. A star stands for one segment that is not empty, two
// stars for any number of them.
func (p *Pattern) Matches(path string) bool {
	if p.segments == nil {
		return p.text.Matches(path)
	}
	if path == "" || path[0] != '/' {
		return false
	}
	rest := path[1:]
	for i, s := range p.segments {
		if s == "**" {
			return endsWith(rest, p.segments[i+1:])
		}
		segment, after, more := strings.Cut(rest, "/")
		if !same(s, segment) {
			return false
		}
		last := i == len(p.segments)-1
		if last {
			return !more
		}
		if !more {
			// What is left may still be a "**" that stands for nothing.
			return i == len(p.segments)-2 && p.segments[i+1] == "**"
		}
		rest = after
	}
	return false
}

// endsWith reports whether the last segments of path are those of pattern.
func endsWith(path string, pattern []string) bool {
	if len(pattern) == 0 {
		return true
	}
	for i := len(pattern) - 1; i >= 0; i-- {
		at := strings.LastIndexByte(path, '/')
		if !same(pattern[i], path[at+1:]) {
			return false
		}
		if at < 0 {
			return i == 0
		}
		path = path[:at]
	}
	return true
}

// same compares one segment.
func same(pattern, segment string) bool {
	if pattern == "*" {
		return segment != ""
	}
	return pattern == segment
}
