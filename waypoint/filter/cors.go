package filter

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/match"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// cors says which pages of other origins may ask. Source: the Fetch standard,
// section 3.2.
type cors struct {
	origins                  []match.Text
	methods, headers, expose []string
	maxAge                   string
	credentials, forward     bool
}

// compileCors prepares it.
func compileCors(c *waypointapi.Cors) (*cors, error) {
	out := &cors{methods: c.GetMethods(), headers: c.GetHeaders(), expose: c.GetExpose(), credentials: c.GetCredentials(), forward: c.GetForwardUnmatched()}
	var err error
	if out.origins, err = match.CompileTexts(c.GetOrigins()); err != nil {
		return nil, err
	}
	if c.GetMaxAge() != nil {
		out.maxAge = strconv.FormatInt(int64(c.GetMaxAge().AsDuration().Seconds()), 10)
	}
	return out, nil
}

// apply answers preflights.
func (c *cors) apply(p *Pass) *Answer {
	origin := p.Request.Fields.Get("origin")
	if origin == "" {
		return nil
	}
	if !slices.ContainsFunc(c.origins, func(t match.Text) bool { return t.Matches(origin) }) {
		if p.Request.Method == "OPTIONS" && p.Request.Fields.Has("access-control-request-method") && !c.forward {
			return &Answer{Status: 200, Details: "cors_preflight"} // without a permission
		}
		return nil
	}
	p.origin = origin
	if p.Request.Method != "OPTIONS" || !p.Request.Fields.Has("access-control-request-method") {
		return nil
	}
	a := &Answer{Status: 200, Details: "cors_preflight"}
	for _, f := range []struct {
		name   string
		values []string
		asked  string
	}{
		{"Access-Control-Allow-Methods", c.methods, "access-control-request-method"},
		{"Access-Control-Allow-Headers", c.headers, "access-control-request-headers"},
	} {
		value := strings.Join(f.values, ", ")
		if slices.Contains(f.values, "*") && c.credentials {
			value = p.Request.Fields.Get(f.asked) // a star means itself where credentials go along
		}
		if value != "" {
			a.Fields.Add(f.name, value)
		}
	}
	if c.maxAge != "" {
		a.Fields.Add("Access-Control-Max-Age", c.maxAge)
	}
	return a
}

// respond says who may be shown the answer.
func (c *cors) respond(p *Pass, fields *message.Fields) {
	if p.origin == "" {
		return
	}
	fields.Set("Access-Control-Allow-Origin", p.origin)
	fields.Add("Vary", "Origin")
	if c.credentials {
		fields.Set("Access-Control-Allow-Credentials", "true")
	}
	if len(c.expose) > 0 {
		fields.Set("Access-Control-Expose-Headers", strings.Join(c.expose, ", "))
	}
}
