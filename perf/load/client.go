package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Client gives orders to the programs of a pod. It may be used from many
// goroutines.
type Client struct {
	http *http.Client
}

// NewClient makes a client for the control socket at path. It does not connect.
func NewClient(path string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Counters asks what the programs have done so far.
func (c *Client) Counters(ctx context.Context) (Counters, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://pod/counters", nil)
	if err != nil {
		return Counters{}, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return Counters{}, err
	}
	defer res.Body.Close()
	var got Counters
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		return Counters{}, fmt.Errorf("counters of the pod: %w", err)
	}
	return got, nil
}

// Running is a load at work.
type Running struct {
	body   io.ReadCloser
	lines  *json.Decoder
	cancel context.CancelFunc
}

// Start makes a pod begin a load and returns when all its connections stand.
// The caller ends it with Result or Stop.
func (c *Client) Start(ctx context.Context, o Order) (*Running, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://pod/load", bytes.NewReader(raw))
	if err != nil {
		cancel()
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	r := &Running{body: res.Body, lines: json.NewDecoder(res.Body), cancel: cancel}
	line, err := r.next()
	if err == nil && !line.Running {
		err = errors.New("it ended before it ran")
	}
	if err != nil {
		r.Stop()
		return nil, fmt.Errorf("%s load to %s: %w", o.Kind, o.Address, err)
	}
	return r, nil
}

// next reads a line of the answer.
func (r *Running) next() (reply, error) {
	var line reply
	if err := r.lines.Decode(&line); err != nil {
		return line, err
	}
	if line.Error != "" {
		return line, errors.New(line.Error)
	}
	return line, nil
}

// Result waits for the end of a load that has a window.
func (r *Running) Result() (Result, error) {
	defer r.Stop()
	line, err := r.next()
	return line.Result, err
}

// Stop ends a load at once.
func (r *Running) Stop() {
	r.cancel()
	r.body.Close()
}
