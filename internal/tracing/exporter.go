package tracing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Limits on what waits for the collector, our choice: a span is less than 1 KiB.
const (
	maxQueue = 2048
	maxBatch = 512
	// gatherTime is how long a batch waits for more.
	gatherTime = time.Second
	// exportTime is how long the collector may take for one batch.
	exportTime = 5 * time.Second
	// goodbyeTime is how long what is left may take when Run is to end.
	goodbyeTime = time.Second
	// maxText is the longest value that is sent, in bytes.
	maxText = 1 << 10
)

// exportMethod is the call that takes spans.
// Source: opentelemetry/proto/collector/trace/v1/trace_service.proto.
const exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// Config says where spans go and which.
type Config struct {
	// Endpoint is the collector: http://host:port, or https://host:port. Empty
	// means that there are no spans.
	Endpoint string
	// RootCA is a file of roots for https. Empty means those of the system.
	RootCA string
	// Share is how many of the traces that begin here are sampled, from 0 to 1.
	// Of others decides who began them.
	Share float64
	// Resource says who we are.
	Resource []Attr
	// Failed is told why a batch was lost; nil means nobody.
	Failed func(error)
}

// Exporter sends spans to a collector. Any goroutine may use it. A nil Exporter
// samples nothing and takes nothing.
type Exporter struct {
	// Set by NewExporter, then only read.
	cfg   Config
	conn  *grpc.ClientConn
	queue chan Span

	sent, dropped atomic.Uint64
}

// NewExporter makes an exporter that connects with its first batch; nil when cfg
// names no collector. One that does not run is closed by Close.
func NewExporter(cfg Config) (*Exporter, error) {
	if cfg.Endpoint == "" {
		return nil, nil
	}
	if cfg.Share < 0 || cfg.Share > 1 || math.IsNaN(cfg.Share) {
		return nil, fmt.Errorf("share of sampled traces is %v, want 0 to 1", cfg.Share)
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("OTLP endpoint %q: want http://host:port or https://host:port", cfg.Endpoint)
	}
	creds := insecure.NewCredentials()
	if u.Scheme == "https" {
		conf := &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.RootCA != "" {
			pem, err := os.ReadFile(cfg.RootCA)
			if err != nil {
				return nil, fmt.Errorf("roots of the OTLP endpoint: %w", err)
			}
			conf.RootCAs = x509.NewCertPool()
			if !conf.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("roots of the OTLP endpoint: no certificate in %s", cfg.RootCA)
			}
		}
		creds = credentials.NewTLS(conf)
	}
	host := u.Host
	if u.Port() == "" {
		host += ":4317" // OTLP over gRPC. Source: the OpenTelemetry protocol, section OTLP/gRPC Default Port.
	}
	conn, err := grpc.NewClient(host, grpc.WithTransportCredentials(creds))
	if err != nil {
		return nil, fmt.Errorf("OTLP endpoint %q: %w", cfg.Endpoint, err)
	}
	return &Exporter{cfg: cfg, conn: conn, queue: make(chan Span, maxQueue)}, nil
}

// Close gives back what NewExporter has taken. Run does it too.
func (e *Exporter) Close() error {
	if e == nil {
		return nil
	}
	return e.conn.Close()
}

// Root begins a trace, sampled or not.
func (e *Exporter) Root() Link {
	l := Link{Context: NewContext()}
	if e != nil && e.cfg.Share > 0 && rand.Float64() < e.cfg.Share {
		l.Flags |= sampled
	}
	return l
}

// Child is the place below parent. It is the zero Link when nobody samples that
// trace: what is not sampled is passed on as it came.
func (e *Exporter) Child(parent Context) Link {
	if e == nil || !parent.Sampled() {
		return Link{}
	}
	return Link{Context: Context{Trace: parent.Trace, Span: newSpan(), Flags: parent.Flags}, Parent: parent.Span}
}

// Add takes a span that is sampled. It never waits.
func (e *Exporter) Add(s Span) {
	if e == nil || !s.Sampled() {
		return
	}
	select {
	case e.queue <- s:
	default:
		e.dropped.Add(1)
	}
}

// Sent and Dropped count spans: those the collector has taken, and those that it
// did not get.
func (e *Exporter) Sent() uint64 { return e.sent.Load() }

// Dropped is described at Sent.
func (e *Exporter) Dropped() uint64 { return e.dropped.Load() }

// Run sends spans until ctx ends, and then for at most a second what is left.
func (e *Exporter) Run(ctx context.Context) error {
	if e == nil {
		<-ctx.Done()
		return nil
	}
	defer e.conn.Close()
	for {
		batch, more := e.gather(ctx)
		if !more {
			// What comes now is from what ends together with us.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTime)
			defer cancel()
			e.export(ctx, append(batch, e.rest()...))
			return nil
		}
		e.export(ctx, batch)
	}
}

// gather waits for a batch. more is false when ctx has ended.
func (e *Exporter) gather(ctx context.Context) (batch []Span, more bool) {
	select {
	case s := <-e.queue:
		batch = append(batch, s)
	case <-ctx.Done():
		return nil, false
	}
	timer := time.NewTimer(gatherTime)
	defer timer.Stop()
	for len(batch) < maxBatch {
		select {
		case s := <-e.queue:
			batch = append(batch, s)
		case <-timer.C:
			return batch, true
		case <-ctx.Done():
			return batch, false
		}
	}
	return batch, true
}

// rest is what waits now.
func (e *Exporter) rest() (batch []Span) {
	for {
		select {
		case s := <-e.queue:
			batch = append(batch, s)
		default:
			return batch
		}
	}
}

// errNotTaken is why the collector has no use for spans that it has got.
var errNotTaken = errors.New("the collector has taken only a part of the spans")

// export sends one batch. What cannot be sent is lost: a collector that is away must
// not make a proxy grow.
func (e *Exporter) export(ctx context.Context, batch []Span) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, exportTime)
	defer cancel()
	// The message is one of unknown fields to us: what they are is said in span.go.
	req, resp := &emptypb.Empty{}, &emptypb.Empty{}
	req.ProtoReflect().SetUnknown(appendBatch(nil, e.cfg.Resource, batch))
	err := e.conn.Invoke(ctx, exportMethod, req, resp, grpc.WaitForReady(true))
	if err == nil && len(resp.ProtoReflect().GetUnknown()) > 0 { // a partial_success, which is there only when something is wrong
		err = errNotTaken
	}
	if err != nil {
		e.dropped.Add(uint64(len(batch)))
		if e.cfg.Failed != nil {
			e.cfg.Failed(fmt.Errorf("send %d spans to %s: %w", len(batch), e.cfg.Endpoint, err))
		}
		return
	}
	e.sent.Add(uint64(len(batch)))
}

// valid is s as a collector takes it: UTF-8, and not without end.
func valid(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "?")
}
