package filter

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// maxRegex is the longest regular expression that is compiled, in bytes.
const maxRegex = 1024

// pathChange makes another path.
type pathChange struct {
	full, prefix *string
	regex        *regexp.Regexp
	substitution string
}

// compilePath prepares a change; nil stays nil.
func compilePath(p *waypointapi.PathChange) (*pathChange, error) {
	if p == nil {
		return nil, nil
	}
	c := &pathChange{}
	switch k := p.GetKind().(type) {
	case *waypointapi.PathChange_Full:
		c.full = &k.Full
	case *waypointapi.PathChange_Prefix:
		c.prefix = &k.Prefix
	case *waypointapi.PathChange_Regex:
		if len(k.Regex.GetMatch()) > maxRegex {
			return nil, fmt.Errorf("regular expression of %d bytes, want at most %d", len(k.Regex.GetMatch()), maxRegex)
		}
		re, err := regexp.Compile(k.Regex.GetMatch())
		if err != nil {
			return nil, err
		}
		c.regex, c.substitution = re, groups.ReplaceAllString(strings.ReplaceAll(k.Regex.GetSubstitution(), "$", "$$"), "$${$1}")
	default:
		return nil, fmt.Errorf("path change of no known kind")
	}
	return c, nil
}

// groups are references to groups as users write them: \1.
var groups = regexp.MustCompile(`\\(\d)`)

// of is the path that comes of a request's path, whose first prefix bytes the
// route matched.
func (c *pathChange) of(path string, prefix int) string {
	switch {
	case c == nil:
		return path
	case c.full != nil:
		path = *c.full
	case c.regex != nil:
		path = c.regex.ReplaceAllString(path, c.substitution)
	default:
		rest := path[min(prefix, len(path)):]
		if path = *c.prefix; strings.HasPrefix(rest, "/") {
			path = strings.TrimSuffix(path, "/")
		}
		path += rest
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return path
}

// rewrite changes path and host of a request.
type rewrite struct {
	host string
	path *pathChange
}

// compileRewrite prepares it.
func compileRewrite(r *waypointapi.Rewrite) (step, error) {
	path, err := compilePath(r.GetPath())
	if err != nil {
		return nil, err
	}
	if r.GetHost() != "" {
		if _, _, err := message.CanonicalHost(r.GetHost()); err != nil {
			return nil, err
		}
	}
	return &rewrite{host: r.GetHost(), path: path}, nil
}

func (r *rewrite) apply(p *Pass) *Answer {
	if r.host != "" {
		host, _, err := message.CanonicalHost(r.host)
		if err != nil {
			return &Answer{Status: 500, Details: "rewrite_host"}
		}
		p.Request.Authority, p.Request.Host = r.host, host
	}
	if r.path != nil {
		raw := r.path.of(p.Request.Path, p.Prefix)
		if p.Request.HasQuery {
			raw += "?" + p.Request.Query
		}
		t, err := message.ParseTarget(raw)
		if err != nil {
			return &Answer{Status: 400, Body: "path cannot be rewritten", Details: "rewrite_path"}
		}
		p.Request.Target = t
	}
	return nil
}
