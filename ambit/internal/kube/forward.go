package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// maxAnswer is the most of an answer that is read, in bytes: the config_dump of
// a node in a large mesh has tens of megabytes.
const maxAnswer = 256 << 20

// StatusError is an answer of a pod that is not 200.
type StatusError struct {
	Status int
	Text   string // the beginning of the body
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.Text) }

// Get sends a GET to a port of a pod, through the API server and the pod's
// loopback, and returns the body. It needs the right to create pods/portforward.
func (c *Client) Get(ctx context.Context, namespace, pod string, port int, path string) ([]byte, error) {
	body, err := c.get(ctx, namespace, pod, port, path)
	if err != nil {
		return nil, fmt.Errorf("port %d of pod %s/%s: %w", port, namespace, pod, err)
	}
	return body, nil
}

// get is Get without the name of the pod in its errors.
func (c *Client) get(ctx context.Context, namespace, pod string, port int, path string) ([]byte, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.forward(ctx, namespace, pod, port)
		},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text := strings.TrimSpace(string(body[:min(len(body), 500)]))
		return nil, &StatusError{resp.StatusCode, text}
	}
	return body, nil
}

// forward opens a connection to a port of a pod.
func (c *Client) forward(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	request := c.pods.Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward")
	dialer, err := c.dialer(request.URL())
	if err != nil {
		return nil, err
	}
	conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "1")
	fault, err := conn.CreateStream(headers)
	if err != nil {
		conn.Close()
		return nil, err
	}
	fault.Close() // nothing is written to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		conn.Close()
		return nil, err
	}
	out := &forwarded{Stream: data, fault: fault, conn: conn}
	out.stop = context.AfterFunc(ctx, func() { conn.Close() })
	return out, nil
}

// dialer speaks WebSockets to API servers that do, and SPDY to others.
func (c *Client) dialer(pod *url.URL) (httpstream.Dialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(c.REST)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, pod)
	sockets, err := portforward.NewSPDYOverWebsocketDialerForStreaming(pod, c.REST)
	if err != nil {
		return nil, err
	}
	return portforward.NewFallbackDialerForStreaming(sockets, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// forwarded is a forwarded connection.
type forwarded struct {
	httpstream.Stream                   // the data
	fault             httpstream.Stream // what the node says went wrong
	conn              httpstream.Connection
	stop              func() bool
}

// Read reads data. At its end it reports what the node said, if it did.
func (f *forwarded) Read(p []byte) (int, error) {
	n, err := f.Stream.Read(p)
	if n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	if text, _ := io.ReadAll(io.LimitReader(f.fault, 4096)); len(text) > 0 {
		return 0, errors.New(strings.TrimSpace(string(text)))
	}
	return 0, err
}

// Close ends the connection.
func (f *forwarded) Close() error {
	f.stop()
	return f.conn.Close()
}

// address stands for both ends, which have none here.
type address struct{}

func (address) Network() string { return "forwarded" }
func (address) String() string  { return "forwarded" }

func (f *forwarded) LocalAddr() net.Addr  { return address{} }
func (f *forwarded) RemoteAddr() net.Addr { return address{} }

// Deadlines are not kept: the request's context ends the connection.
func (f *forwarded) SetDeadline(time.Time) error      { return nil }
func (f *forwarded) SetReadDeadline(time.Time) error  { return nil }
func (f *forwarded) SetWriteDeadline(time.Time) error { return nil }
