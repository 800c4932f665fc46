package match

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// maxRegex is the longest regular expression that is compiled, in bytes: our
// choice. RE2 takes time linear in the text, but memory with the expression.
const maxRegex = 1024

// Text is a comparison of one string.
type Text struct {
	kind   textKind
	want   string
	regex  *regexp.Regexp
	fold   bool
	invert bool
}

// textKind is how a Text compares.
type textKind uint8

const (
	exact textKind = iota
	prefix
	suffix
	matches
	present
)

// CompileText prepares a comparison. One of no known kind is an error.
func CompileText(m *waypointapi.StringMatch) (Text, error) {
	t := Text{fold: m.GetIgnoreCase(), invert: m.GetInvert()}
	switch k := m.GetKind().(type) {
	case *waypointapi.StringMatch_Exact:
		t.kind, t.want = exact, k.Exact
	case *waypointapi.StringMatch_Prefix:
		t.kind, t.want = prefix, k.Prefix
	case *waypointapi.StringMatch_Suffix:
		t.kind, t.want = suffix, k.Suffix
	case *waypointapi.StringMatch_Present:
		t.kind = present
	case *waypointapi.StringMatch_Regex:
		var err error
		t.kind = matches
		if t.regex, err = compileRegex(k.Regex, t.fold); err != nil {
			return Text{}, err
		}
	default:
		return Text{}, fmt.Errorf("comparison of no known kind")
	}
	if t.fold {
		t.want = strings.ToLower(t.want)
	}
	return t, nil
}

// CompileTexts prepares a list.
func CompileTexts(list []*waypointapi.StringMatch) ([]Text, error) {
	var out []Text
	for i, m := range list {
		t, err := CompileText(m)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// compileRegex prepares an expression that has to match the whole text.
func compileRegex(text string, fold bool) (*regexp.Regexp, error) {
	if len(text) > maxRegex {
		return nil, fmt.Errorf("regular expression of %d bytes, want at most %d", len(text), maxRegex)
	}
	flags := "^(?:"
	if fold {
		flags = "(?i)^(?:"
	}
	return regexp.Compile(flags + text + ")$")
}

// Matches compares a value that is there.
func (t *Text) Matches(value string) bool { return t.hit(value) != t.invert }

// hit compares without regard to invert.
func (t *Text) hit(value string) bool {
	if t.fold && t.kind != matches {
		value = strings.ToLower(value)
	}
	switch t.kind {
	case exact:
		return value == t.want
	case prefix:
		return strings.HasPrefix(value, t.want)
	case suffix:
		return strings.HasSuffix(value, t.want)
	case matches:
		return t.regex.MatchString(value)
	case present:
		return true
	}
	return false
}

// literal is the text that the comparison asks for, if that is all.
func (t *Text) literal() (string, bool) {
	return t.want, t.kind == exact && !t.fold && !t.invert
}
