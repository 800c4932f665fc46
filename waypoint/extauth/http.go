package extauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// overHTTP asks with a request that has the head of the other one.
type overHTTP struct {
	client *http.Client
	base   string // scheme and host
	check  *waypointapi.HttpCheck
}

// alwaysShown is what providers see in any case, beside method, path and host.
// Source: Istio's MeshConfig.
var alwaysShown = names{"authorization"}

// alwaysToClient goes to clients with a refusal in any case. Source: the same.
var alwaysToClient = names{"location", "www-authenticate"}

// newHTTP makes a client. It follows no redirect: that is for the user's browser.
func newHTTP(p *waypointapi.Provider, dial func(context.Context) (net.Conn, error)) *overHTTP {
	return &overHTTP{
		base: "http://" + host(p.GetService()), check: p.GetHttp(),
		client: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
				DisableCompression: true, MaxIdleConnsPerHost: idleConns, IdleConnTimeout: idleTime, MaxResponseHeaderBytes: maxHead,
			},
		},
	}
}

// close implements client.
func (h *overHTTP) close() { h.client.CloseIdleConnections() }

// shown reports whether a provider sees a field.
func (h *overHTTP) shown(name string) bool {
	return !isFraming(name) && (alwaysShown.has(name) || names(h.check.GetIncludeHeaders()).has(name))
}

// ask implements client.
func (h *overHTTP) ask(ctx context.Context, q *Query) (*Decision, error) {
	if q.Request == nil {
		return nil, fmt.Errorf("%w: over HTTP it can only be asked about HTTP", ErrBroken)
	}
	req, err := h.request(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return h.allowed(q.Request, resp)
	case resp.StatusCode >= 500:
		return nil, fmt.Errorf("the provider answers %d", resp.StatusCode)
	}
	return h.refused(resp, string(body)), nil
}

// request is the one that asks.
func (h *overHTTP) request(ctx context.Context, q *Query) (*http.Request, error) {
	target := q.Request.Target.String()
	if !strings.HasPrefix(target, "/") { // * of OPTIONS
		target = "/" + target
	}
	u, err := url.Parse(h.base + strings.TrimSuffix(h.check.GetPathPrefix(), "/") + target)
	if err != nil {
		return nil, errors.New("the path cannot be sent to it")
	}
	var body io.Reader
	if len(q.Body) > 0 {
		body = bytes.NewReader(q.Body)
	}
	req, err := http.NewRequestWithContext(ctx, q.Request.Method, u.String(), body)
	if err != nil {
		return nil, err
	}
	req.Host = q.Request.Authority
	req.Header["User-Agent"] = nil // not one of our own
	for _, f := range q.Request.Fields {
		if h.shown(f.Name) {
			req.Header.Add(f.Name, f.Value)
		}
	}
	for name, value := range h.check.GetAdditionalHeaders() {
		req.Header.Set(name, value)
	}
	if q.Partial {
		req.Header.Set("X-Envoy-Auth-Partial-Body", "true")
	}
	return req, nil
}

// allowed reads a yes. Fields that the provider would have written, has not, and has
// not seen either, are taken out of the request: the client must not write them in
// its place.
func (h *overHTTP) allowed(req *message.Request, resp *http.Response) (*Decision, error) {
	d := &Decision{Allowed: true}
	up := names(h.check.GetUpstreamOnAllow())
	var err error
	if d.Request.Change, err = h.changes(resp.Header, up); err != nil {
		return nil, err
	}
	for _, f := range req.Fields {
		if up.has(f.Name) && !h.shown(f.Name) && resp.Header.Values(f.Name) == nil && !isFraming(f.Name) {
			d.Request.Remove = append(d.Request.Remove, f.Name)
		}
	}
	d.Answer.Change, err = h.changes(resp.Header, names(h.check.GetDownstreamOnAllow()))
	return d, err
}

// changes are the fields of an answer that are meant.
func (h *overHTTP) changes(header http.Header, want names) ([]Change, error) {
	var out []Change
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if !want.has(name) || isFraming(name) {
			continue
		}
		for i, value := range header[name] {
			c := Change{Field: message.Field{Name: strings.ToLower(name), Value: message.TrimBlank(value)}}
			if i > 0 {
				c.How = Append
			}
			if err := changeable(c.Name, c.Value); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrBroken, err)
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// refused reads a no.
func (h *overHTTP) refused(resp *http.Response, body string) *Decision {
	d := &Decision{Status: resp.StatusCode, Body: body}
	if d.Status < 200 { // an answer without a body that we did not ask for
		d.Status = 403
	}
	want := names(h.check.GetDownstreamOnDeny())
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		if isFraming(name) || len(want) > 0 && !want.has(name) && !alwaysToClient.has(name) {
			continue
		}
		for _, value := range resp.Header[name] {
			if message.ValidName(name) && message.ValidValue(value) {
				d.Fields.Add(strings.ToLower(name), value)
			}
		}
	}
	return d
}
