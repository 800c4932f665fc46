package labapp

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// keptConns is how many connections carry the half of a load that connects once.
	keptConns = 10
	// maxFailures is how many failures a report describes.
	maxFailures = 20
	// tellEvery is how often a load tells its numbers.
	tellEvery = 200 * time.Millisecond
	// outstanding is how many requests may wait for their answers: more means that the
	// other side answers nothing, and each further one would tell the same.
	outstanding = 1000
)

// load sends requests at a fixed rate, whether they are answered or not. Nothing is
// ever tried again: each request that is not answered counts as failed.
func (c *client) load(ctx context.Context) Reply {
	l := newLoad(c.req)
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	var group lifecycle.Group
	half := time.Duration(2 * int64(time.Second) / max(c.req.Rate, 2)) // between two requests of a kind
	for i := range keptConns {
		group.Go(work, "kept", func(ctx context.Context) { l.kept(ctx, half*keptConns, half*time.Duration(i)) })
	}
	group.Go(work, "new", func(ctx context.Context) { l.fresh(ctx, half) })
	group.Go(work, "tell", func(ctx context.Context) {
		for lifecycle.Sleep(ctx, tellEvery) == nil {
			c.tell(Reply{Load: l.report()})
		}
	})
	select {
	case <-c.stop:
	case <-ctx.Done():
	}
	cancel() // begins no more; those under way end as they do
	group.Wait()
	return Reply{Load: l.report()}
}

// loader is a load at work.
type loader struct {
	// Set by newLoad, then only read.
	address, marker string
	timeout         time.Duration

	mu        sync.Mutex
	numbers   Load
	latencies *hdrhistogram.Histogram
}

func newLoad(req Request) *loader {
	return &loader{
		address: req.Address, marker: req.Text, timeout: cmp.Or(req.Timeout, defaultTimeout),
		numbers:   Load{Servers: map[string]int{}},
		latencies: hdrhistogram.New(1, time.Minute.Microseconds(), 3),
	}
}

// report is what came of it so far.
func (l *loader) report() *Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.numbers
	r.Servers = make(map[string]int, len(l.numbers.Servers))
	for name, n := range l.numbers.Servers {
		r.Servers[name] = n
	}
	micro := func(v int64) time.Duration { return time.Duration(v) * time.Microsecond }
	r.P50, r.P99 = micro(l.latencies.ValueAtQuantile(50)), micro(l.latencies.ValueAtQuantile(99))
	r.Max = micro(l.latencies.Max())
	return &r
}

// fresh begins a request on a connection of its own at each tick, until ctx ends, and
// returns when the last has ended.
func (l *loader) fresh(ctx context.Context, every time.Duration) {
	var requests lifecycle.Group
	defer requests.Wait()
	places := make(chan struct{}, outstanding)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		select {
		case places <- struct{}{}:
		default:
			l.failed(time.Now(), true, "", fmt.Errorf("%d requests wait for their answers", outstanding))
			continue
		}
		requests.Go(context.WithoutCancel(ctx), "request", func(ctx context.Context) {
			defer func() { <-places }()
			start := time.Now()
			conn, err := l.dial(ctx)
			if err != nil {
				l.failed(start, true, "", err)
				return
			}
			defer conn.Close()
			l.ask(start, true, conn, bufio.NewReader(conn))
		})
	}
}

// kept sends requests on one connection, and connects again when the server has ended
// it in good order or a request has failed.
func (l *loader) kept(ctx context.Context, every, first time.Duration) {
	var conn net.Conn
	var in *bufio.Reader
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	if lifecycle.Sleep(ctx, first) != nil {
		return
	}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		start := time.Now()
		if conn == nil {
			var err error
			if conn, err = l.dial(context.WithoutCancel(ctx)); err != nil {
				conn = nil
				l.failed(start, false, "", err)
				continue
			}
			in = bufio.NewReader(conn)
		}
		if !l.ask(start, false, conn, in) {
			conn.Close()
			conn = nil
		}
	}
}

func (l *loader) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{Timeout: l.timeout}).DialContext(ctx, "tcp", l.address)
}

// ask sends one request and reads its answer; it reports whether the connection can
// carry another one.
func (l *loader) ask(start time.Time, own bool, conn net.Conn, in *bufio.Reader) bool {
	res, hello, err := l.exchange(start, own, conn, in)
	if err != nil {
		l.failed(start, own, conn.LocalAddr().String(), err)
		return false
	}
	l.mu.Lock()
	l.numbers.Sent++
	l.numbers.OK++
	if own {
		l.numbers.New++
	}
	l.numbers.Servers[hello.Pod]++
	_ = l.latencies.RecordValue(min(time.Since(start), time.Minute).Microseconds()) // within its bounds
	l.mu.Unlock()
	return !res.Close
}

func (l *loader) exchange(start time.Time, own bool, conn net.Conn, in *bufio.Reader) (*http.Response, Hello, error) {
	var hello Hello
	if err := conn.SetDeadline(start.Add(l.timeout)); err != nil {
		return nil, hello, err
	}
	keep := "keep-alive"
	if own {
		keep = "close"
	}
	_, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n%s: %s\r\nConnection: %s\r\n\r\n", l.address, markerHeader, l.marker, keep)
	if err != nil {
		return nil, hello, err
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("connection ended instead of an answer: %w", err)
		}
		return nil, hello, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, hello, fmt.Errorf("answered %s", res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(&hello); err != nil {
		return nil, hello, fmt.Errorf("answer: %w", err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return nil, hello, fmt.Errorf("answer: %w", err)
	}
	return res, hello, nil
}

// failed counts a request that got no answer.
func (l *loader) failed(start time.Time, own bool, local string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.numbers.Sent++
	l.numbers.Failed++
	if own {
		l.numbers.New++
	}
	if len(l.numbers.Failures) < maxFailures {
		l.numbers.Failures = append(l.numbers.Failures, Failure{At: start, After: time.Since(start), New: own, Local: local, Error: err.Error()})
	}
}
