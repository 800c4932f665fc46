package extauth

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// overGRPC asks with Envoy's protocol.
type overGRPC struct {
	conn *grpc.ClientConn
	stub authv3.AuthorizationClient
	raw  bool
}

// newGRPC makes a client. What protects the connection is the tunnel that dial goes
// through.
func newGRPC(p *waypointapi.Provider, dial func(context.Context) (net.Conn, error)) (*overGRPC, error) {
	conn, err := grpc.NewClient("passthrough:///"+host(p.GetService()),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithNoProxy(), grpc.WithIdleTimeout(idleTime), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, err
	}
	return &overGRPC{conn: conn, stub: authv3.NewAuthorizationClient(conn), raw: p.GetBody().GetRaw()}, nil
}

// close implements client. There is nobody to tell when it does not work.
func (g *overGRPC) close() { g.conn.Close() }

// ask implements client.
func (g *overGRPC) ask(ctx context.Context, q *Query) (*Decision, error) {
	resp, err := g.stub.Check(ctx, &authv3.CheckRequest{Attributes: g.attributes(q)})
	if err != nil {
		return nil, err
	}
	if resp.GetErrorResponse() != nil {
		return nil, fmt.Errorf("the provider reports an error: %s", resp.GetStatus().GetMessage())
	}
	if resp.GetStatus().GetCode() == 0 {
		return allowed(resp.GetOkResponse())
	}
	return refused(resp.GetDeniedResponse())
}

// attributes are the request in Envoy's words.
func (g *overGRPC) attributes(q *Query) *authv3.AttributeContext {
	a := &authv3.AttributeContext{Source: peer(q.Source), Destination: peer(q.Destination)}
	if q.Request == nil {
		return a
	}
	req := q.Request
	h := &authv3.AttributeContext_HttpRequest{
		Id: q.ID, Method: req.Method, Path: req.Target.String(), Host: req.Authority, Scheme: req.Scheme,
		Protocol: req.Version.String(), Size: req.Length, Headers: map[string]string{
			":method": req.Method, ":path": req.Target.String(), ":authority": req.Authority, ":scheme": req.Scheme,
		},
	}
	for _, f := range req.Fields {
		name, value := strings.ToLower(f.Name), f.Value
		if before, there := h.Headers[name]; there {
			value = before + "," + value
		}
		h.Headers[name] = value
	}
	if q.Partial {
		h.Headers["x-envoy-auth-partial-body"] = "true"
	} else if len(q.Body) > 0 {
		h.Headers["x-envoy-auth-partial-body"] = "false"
	}
	if g.raw {
		h.RawBody = q.Body
	} else {
		h.Body = strings.ToValidUTF8(string(q.Body), "\uFFFD")
	}
	a.Request = &authv3.AttributeContext_Request{Time: timestamppb.New(q.Time), Http: h}
	return a
}

// peer is one end in Envoy's words.
func peer(p Peer) *authv3.AttributeContext_Peer {
	return &authv3.AttributeContext_Peer{Principal: p.Principal, Address: address(p.Addr)}
}

// address is a socket in Envoy's words.
func address(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: a.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

// allowed reads a yes. A change that we cannot make is an error: without it the
// request would not be the one that was allowed.
func allowed(ok *authv3.OkHttpResponse) (*Decision, error) {
	d := &Decision{Allowed: true}
	if n := len(ok.GetQueryParametersToSet()) + len(ok.GetQueryParametersToRemove()); n > 0 {
		return nil, fmt.Errorf("%w: it changes query parameters, which is not supported", ErrBroken)
	}
	for _, name := range ok.GetHeadersToRemove() {
		if err := changeable(name, ""); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		d.Request.Remove = append(d.Request.Remove, name)
	}
	var err error
	if d.Request.Change, err = changes(ok.GetHeaders()); err != nil {
		return nil, err
	}
	d.Answer.Change, err = changes(ok.GetResponseHeadersToAdd())
	return d, err
}

// changes reads fields.
func changes(options []*corev3.HeaderValueOption) ([]Change, error) {
	var out []Change
	for _, o := range options {
		value := o.GetHeader().GetValue()
		if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
			value = string(raw)
		}
		c := Change{Field: message.Field{Name: strings.ToLower(o.GetHeader().GetKey()), Value: message.TrimBlank(value)}}
		if err := changeable(c.Name, c.Value); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		switch {
		//lint:ignore SA1019 what most providers set
		case o.GetAppend().GetValue():
			c.How = Append
		case o.GetAppendAction() == corev3.HeaderValueOption_ADD_IF_ABSENT:
			c.How = SetIfAbsent
		case o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
			c.How = SetIfThere
		}
		out = append(out, c)
	}
	return out, nil
}

// refused reads a no.
func refused(no *authv3.DeniedHttpResponse) (*Decision, error) {
	d := &Decision{Status: int(no.GetStatus().GetCode()), Body: no.GetBody()}
	if d.Status < 200 || d.Status > 599 {
		d.Status = 403
	}
	d.Body = d.Body[:min(len(d.Body), maxAnswer)]
	fields, err := changes(no.GetHeaders())
	if err != nil {
		return nil, err
	}
	for _, c := range fields {
		d.Fields.Add(c.Name, c.Value)
	}
	return d, nil
}
