package filter

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// redirect answers with another place.
type redirect struct {
	scheme, host string
	port         uint32
	path         *pathChange
	status       int
}

// compileRedirect prepares it.
func compileRedirect(r *waypointapi.Redirect) (step, error) {
	path, err := compilePath(r.GetPath())
	if err != nil {
		return nil, err
	}
	status := int(cmp.Or(r.GetStatus(), 302))
	if status < 300 || status > 399 {
		return nil, fmt.Errorf("redirect with status %d", status)
	}
	if strings.ContainsAny(r.GetHost()+r.GetScheme(), "\r\n \t/") {
		return nil, fmt.Errorf("redirect to a bad host or scheme")
	}
	return &redirect{scheme: r.GetScheme(), host: r.GetHost(), port: r.GetPort(), path: path, status: status}, nil
}

// apply answers. The port is the one given, else that of the scheme that is
// given, else the one that was called. Source: Gateway API,
// HTTPRequestRedirectFilter.
func (r *redirect) apply(p *Pass) *Answer {
	req := p.Request
	scheme := cmp.Or(r.scheme, req.Scheme, "http")
	host := cmp.Or(r.host, req.Host)
	port := r.port
	if port == 0 && r.scheme == "" {
		port = uint32(p.Port)
		if _, asked, err := message.CanonicalHost(req.Authority); err == nil && asked != "" && r.host == "" {
			n, _ := strconv.ParseUint(asked, 10, 16)
			port = uint32(n)
		}
	}
	if scheme == "http" && port == 80 || scheme == "https" && port == 443 {
		port = 0
	}
	switch {
	case port != 0:
		host = net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
	case strings.Contains(host, ":"):
		host = "[" + host + "]"
	}
	location := scheme + "://" + host + r.path.of(req.Path, p.Prefix)
	if req.HasQuery {
		location += "?" + req.Query
	}
	return &Answer{Status: r.status, Fields: message.Fields{{Name: "Location", Value: location}}, Details: "redirect"}
}
