package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Subscription asks for all resources of one type.
type Subscription struct {
	TypeURL string
	// Apply takes the resources of one response, then the removals, and says
	// for each resource that it rejects why. It is called from Run only.
	Apply func(resources []*discoveryv3.Resource, removed []string) map[string]error
}

// Config says who asks and for what.
type Config struct {
	Node          *corev3.Node
	Subscriptions []Subscription // requested in this order
	// Backoff spaces out connections. Its zero value goes from 10 ms to 15 s.
	Backoff lifecycle.Backoff
	Events  Events
}

// Events holds optional hooks for logs and metrics. They are called from Run
// and must not block.
type Events struct {
	// Connected: a stream is open and every type has been asked for.
	Connected func()
	// Disconnected: the stream ended; the next try comes after wait. Ordinary
	// ends, such as a control plane that restarts, have expected set.
	Disconnected func(reason Termination, err error, expected bool, wait time.Duration)
	// Received: a response came, of so many bytes.
	Received func(typeURL string, resources, removed, bytes int)
	// Rejected: Apply refused resources of a response.
	Rejected func(typeURL string, why map[string]error)
	// Ready: every type has been acknowledged once.
	Ready func()
}

// Termination classifies the end of a stream, for a metric label.
type Termination string

const (
	TerminatedReconnect       Termination = "reconnect"        // the control plane asked for it
	TerminatedConnectionError Termination = "connection_error" // the connection broke or never came
	TerminatedError           Termination = "error"            // the control plane refused
	TerminatedComplete        Termination = "complete"         // the control plane closed the stream
)

// Client is one subscriber. Run may be called once.
type Client struct {
	cfg   Config
	cc    grpc.ClientConnInterface
	types []*subscribed // in the order of the configuration

	ready     chan struct{}
	readyOnce sync.Once
}

// subscribed is the state of one subscription. Run owns it.
type subscribed struct {
	Subscription
	versions map[string]string // of the resources that are held
	acked    bool              // a response has been answered
}

// NewClient makes a client that will use cc. It starts nothing.
func NewClient(cfg Config, cc grpc.ClientConnInterface) *Client {
	c := &Client{cfg: cfg, cc: cc, ready: make(chan struct{})}
	for _, s := range cfg.Subscriptions {
		c.types = append(c.types, &subscribed{Subscription: s, versions: make(map[string]string)})
	}
	return c
}

// Ready returns a channel that is closed when a response of every type has been
// applied and answered. It never opens again: what is held stays in force while
// the control plane is away.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Run keeps a stream open until ctx ends. It then returns nil.
func (c *Client) Run(ctx context.Context) error {
	backoff := c.cfg.Backoff
	for ctx.Err() == nil {
		progress, err := c.stream(ctx)
		if ctx.Err() != nil {
			break
		}
		if progress {
			backoff.Reset()
		}
		wait := backoff.Next()
		if hook := c.cfg.Events.Disconnected; hook != nil {
			reason, expected := classify(err)
			hook(reason, err, expected, wait)
		}
		if lifecycle.Sleep(ctx, wait) != nil {
			break
		}
	}
	return nil
}

// stream serves one stream until it ends. progress reports whether a response
// came, so that the next try may be soon.
func (c *Client) stream(ctx context.Context) (progress bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // releases the stream on every path
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c.cc).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, err
	}
	for _, t := range c.types {
		if err := send(s, c.first(t)); err != nil {
			return false, err
		}
	}
	if hook := c.cfg.Events.Connected; hook != nil {
		hook()
	}
	for {
		response, err := s.Recv()
		if err != nil {
			return progress, err
		}
		progress = true
		if err := send(s, c.answer(response)); err != nil {
			return progress, err
		}
		c.checkReady()
	}
}

// send hides that gRPC reports the end of a stream to the sender as io.EOF: the
// reason comes from the receiving side.
func send(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, r *discoveryv3.DeltaDiscoveryRequest) error {
	err := s.Send(r)
	if errors.Is(err, io.EOF) {
		_, err = s.Recv()
	}
	return err
}

// first is the request that subscribes to everything of one type and says what
// is held of it.
func (c *Client) first(t *subscribed) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{
		Node:                    c.cfg.Node,
		TypeUrl:                 t.TypeURL,
		InitialResourceVersions: maps.Clone(t.versions),
	}
}

// answer applies a response and makes the request that acknowledges it. A
// resource that was rejected is named there with the reason.
func (c *Client) answer(r *discoveryv3.DeltaDiscoveryResponse) *discoveryv3.DeltaDiscoveryRequest {
	if hook := c.cfg.Events.Received; hook != nil {
		hook(r.GetTypeUrl(), len(r.GetResources()), len(r.GetRemovedResources()), proto.Size(r))
	}
	request := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
	t := c.find(r.GetTypeUrl())
	if t == nil {
		request.ErrorDetail = nack(map[string]error{r.GetTypeUrl(): errors.New("this type was not asked for")})
		return request
	}
	rejected := t.Apply(r.GetResources(), r.GetRemovedResources())
	t.record(r, rejected)
	t.acked = true
	if len(rejected) > 0 {
		if hook := c.cfg.Events.Rejected; hook != nil {
			hook(t.TypeURL, rejected)
		}
		request.ErrorDetail = nack(rejected)
	}
	return request
}

func (c *Client) find(typeURL string) *subscribed {
	for _, t := range c.types {
		if t.TypeURL == typeURL {
			return t
		}
	}
	return nil
}

// record remembers which versions are held after a response. Of a rejected
// resource no version is listed after a reconnect, so that it comes again; its
// name is, when an older value is still in force, so that its removal comes too.
func (t *subscribed) record(r *discoveryv3.DeltaDiscoveryResponse, rejected map[string]error) {
	for _, res := range r.GetResources() {
		name := res.GetName()
		if _, bad := rejected[name]; !bad {
			t.versions[name] = res.GetVersion()
		} else if _, held := t.versions[name]; held {
			t.versions[name] = ""
		}
	}
	for _, name := range r.GetRemovedResources() {
		delete(t.versions, name)
	}
}

// nackBytes is the most text a NACK carries: our choice, well below what a gRPC
// server takes by default (4 MiB).
const nackBytes = 64 << 10

// nack lists what was rejected, by name.
func nack(rejected map[string]error) *statuspb.Status {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(rejected)) {
		line := fmt.Sprintf("%s: %s", name, rejected[name].Error())
		if b.Len()+len(line) > nackBytes {
			b.WriteString("; and more")
			break
		}
		if b.Len() > 0 {
			b.WriteString("; ")
		}
		b.WriteString(line)
	}
	return &statuspb.Status{Code: int32(codes.InvalidArgument), Message: strings.ToValidUTF8(b.String(), "?")}
}

// checkReady opens Ready once every type has been answered.
func (c *Client) checkReady() {
	for _, t := range c.types {
		if !t.acked {
			return
		}
	}
	c.readyOnce.Do(func() {
		close(c.ready)
		if hook := c.cfg.Events.Ready; hook != nil {
			hook()
		}
	})
}

// classify says how a stream ended, and whether such an end is ordinary: a
// control plane that restarts, or asks its clients to spread anew.
func classify(err error) (reason Termination, expected bool) {
	if errors.Is(err, io.EOF) {
		return TerminatedComplete, true
	}
	switch status.Code(err) {
	case codes.Unknown, codes.Canceled, codes.DeadlineExceeded:
		return TerminatedReconnect, true
	case codes.Unavailable:
		return TerminatedConnectionError, strings.Contains(err.Error(), "closing transport") || strings.Contains(err.Error(), "EOF")
	}
	return TerminatedError, false
}
