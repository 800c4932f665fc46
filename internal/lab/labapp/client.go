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
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// defaultTimeout bounds a client whose request names no time.
const defaultTimeout = 5 * time.Second

// uploadChunk is how much an uploader writes at once.
const uploadChunk = 64 << 10

// serveControl answers each connection of the control socket.
func serveControl(ctx context.Context, ln net.Listener) {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var conns lifecycle.Group
	defer conns.Wait()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		conns.Go(ctx, "client", func(ctx context.Context) { control(ctx, c) })
	}
}

// control runs one client for one control connection. A further line on it asks
// the client to stop in good order, its end to give up.
func control(ctx context.Context, c net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cut := context.AfterFunc(ctx, func() { c.Close() })
	defer cut()
	defer c.Close()

	in := bufio.NewReader(c)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return
	}
	out := json.NewEncoder(c)
	var req Request
	if err := json.Unmarshal(line, &req); err != nil {
		_ = out.Encode(Reply{Done: true, Error: "request: " + err.Error()})
		return
	}
	stop := make(chan struct{})
	var reader lifecycle.Group
	reader.Go(ctx, "control-read", func(context.Context) {
		if _, err := in.ReadBytes('\n'); err == nil {
			close(stop)
			_, _ = in.ReadBytes('\n') // until the asker goes
		}
		cancel()
	})
	client := &client{req: req, stop: stop, tell: func(r Reply) { _ = out.Encode(r) }}
	reply := client.do(ctx)
	reply.Done = true
	_ = out.Encode(reply) // when the asker has gone there is nobody to tell
	c.Close()
	reader.Wait()
}

// client is one client at work.
type client struct {
	req  Request
	stop <-chan struct{} // closed when it shall end in good order
	tell func(Reply)     // sends a progress line
}

func (c *client) do(ctx context.Context) Reply {
	var reply Reply
	var err error
	switch c.req.Do {
	case DoHTTP:
		reply, err = c.http(ctx)
	case DoEcho:
		reply, err = c.onConn(ctx, c.echo)
	case DoBanner:
		reply, err = c.onConn(ctx, c.banner)
	case DoUpload:
		reply, err = c.onConn(ctx, c.upload)
	case DoFetch:
		reply, err = c.onConn(ctx, c.fetch)
	case DoLoad:
		reply = c.load(ctx)
	case DoTalk:
		reply, err = c.talk(ctx)
	case DoWatch:
		reply, err = c.onConn(ctx, c.watch)
	default:
		err = fmt.Errorf("%q is not a thing to do", c.req.Do)
	}
	if err != nil {
		reply.Error, reply.Ended = err.Error(), howEnded(err)
	}
	return reply
}

// howEnded names the end of a connection.
func howEnded(err error) string {
	var nerr net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return EndedEOF
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNREFUSED):
		return EndedReset
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &nerr) && nerr.Timeout():
		return EndedTimeout
	}
	return EndedOther
}

// onConn dials and runs fn. Long-lived clients set their own deadlines.
func (c *client) onConn(ctx context.Context, fn func(context.Context, *net.TCPConn) (Reply, error)) (Reply, error) {
	timeout := cmp.Or(c.req.Timeout, defaultTimeout)
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", c.req.Address)
	if err != nil {
		return Reply{}, err
	}
	defer conn.Close()
	cut := context.AfterFunc(ctx, func() { conn.Close() })
	defer cut()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return Reply{}, err
	}
	reply, err := fn(ctx, conn.(*net.TCPConn))
	reply.Local = conn.LocalAddr().String()
	return reply, err
}

// http asks Count times, each on a connection of its own. The first that is not
// answered ends it.
func (c *client) http(ctx context.Context) (Reply, error) {
	transport := &http.Transport{DisableKeepAlives: true, Proxy: nil}
	defer transport.CloseIdleConnections()
	web := &http.Client{Transport: transport, Timeout: cmp.Or(c.req.Timeout, defaultTimeout), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var mu sync.Mutex // guards all that follows
	var reply Reply
	var failed error
	left := max(c.req.Count, 1)
	take := func() bool {
		mu.Lock()
		defer mu.Unlock()
		left--
		return left >= 0 && failed == nil
	}
	note := func(hello Hello, err error) {
		mu.Lock()
		defer mu.Unlock()
		status, ok := errors.AsType[*statusError](err)
		switch {
		case ok && c.req.Statuses:
			if reply.Statuses == nil {
				reply.Statuses = map[int]int{}
			}
			reply.Statuses[status.code]++
		case err == nil:
			reply.Hellos = append(reply.Hellos, hello)
		case failed == nil:
			failed = err
		}
	}
	var asking lifecycle.Group
	for range max(c.req.AtOnce, 1) {
		asking.Go(ctx, "http", func(ctx context.Context) {
			for take() {
				note(c.askHello(ctx, web))
			}
		})
	}
	asking.Wait()
	return reply, failed
}

// statusError is an answer other than 200.
type statusError struct{ code int }

func (e *statusError) Error() string { return fmt.Sprintf("status %d", e.code) }

// askHello sends one request.
func (c *client) askHello(ctx context.Context, web *http.Client) (Hello, error) {
	req, err := http.NewRequestWithContext(ctx, c.req.Method, "http://"+c.req.Address+cmp.Or(c.req.Path, "/"), nil)
	if err != nil {
		return Hello{}, err
	}
	if name, value, ok := strings.Cut(c.req.Header, ": "); ok {
		req.Header.Set(name, value)
	}
	res, err := web.Do(req)
	if err != nil {
		return Hello{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return Hello{}, &statusError{code: res.StatusCode}
	}
	var hello Hello
	if err := json.NewDecoder(res.Body).Decode(&hello); err != nil {
		return Hello{}, err
	}
	return hello, nil
}

func (c *client) echo(_ context.Context, conn *net.TCPConn) (Reply, error) {
	if _, err := io.WriteString(conn, c.req.Text); err != nil {
		return Reply{}, err
	}
	back := make([]byte, len(c.req.Text))
	if _, err := io.ReadFull(conn, back); err != nil {
		return Reply{}, err
	}
	return Reply{Text: string(back)}, nil
}

// banner says nothing before it has read a line.
func (c *client) banner(_ context.Context, conn *net.TCPConn) (Reply, error) {
	line, err := bufio.NewReader(conn).ReadString('\n')
	return Reply{Text: strings.TrimSpace(line)}, err
}

// upload sends, ends its side, and reads the sum that the server then gives.
func (c *client) upload(ctx context.Context, conn *net.TCPConn) (Reply, error) {
	sent := newSummer()
	if err := c.send(ctx, conn, sent); err != nil {
		s := sent.sum()
		return Reply{Sent: &s}, err
	}
	s := sent.sum()
	reply := Reply{Sent: &s}
	if err := conn.CloseWrite(); err != nil {
		return reply, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(cmp.Or(c.req.Timeout, defaultTimeout))); err != nil {
		return reply, err
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return reply, err
	}
	var got Sum
	if err := json.Unmarshal(line, &got); err != nil {
		return reply, err
	}
	reply.Got = &got
	return reply, nil
}

// send writes the pattern: so many bytes, or until the client is told to stop.
func (c *client) send(ctx context.Context, conn *net.TCPConn, sent io.Writer) error {
	pattern := newPattern()
	buf := make([]byte, uploadChunk)
	start := time.Now()
	for total := int64(0); c.req.Bytes == 0 || total < c.req.Bytes; {
		select {
		case <-c.stop:
			return nil
		default:
		}
		n := int64(len(buf))
		if c.req.Bytes > 0 {
			n = min(n, c.req.Bytes-total)
		}
		if _, err := io.ReadFull(pattern, buf[:n]); err != nil {
			return err
		}
		if err := conn.SetWriteDeadline(time.Now().Add(cmp.Or(c.req.Timeout, defaultTimeout))); err != nil {
			return err
		}
		w, err := conn.Write(buf[:n])
		_, _ = sent.Write(buf[:w]) // a sum does not fail
		if err != nil {
			return err
		}
		total += n
		if c.req.Rate > 0 {
			ahead := time.Duration(float64(total)/float64(c.req.Rate)*float64(time.Second)) - time.Since(start)
			if err := lifecycle.Sleep(ctx, max(ahead, 0)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetch asks a source for bytes and says their sum beside the expected one.
func (c *client) fetch(_ context.Context, conn *net.TCPConn) (Reply, error) {
	if _, err := fmt.Fprintf(conn, "%d\n", c.req.Bytes); err != nil {
		return Reply{}, err
	}
	want, got := newSummer(), newSummer()
	_, err := io.Copy(got, conn)
	if _, perr := io.CopyN(want, newPattern(), c.req.Bytes); perr != nil {
		return Reply{}, perr
	}
	s, g := want.sum(), got.sum()
	return Reply{Sent: &s, Got: &g}, err
}

// watch holds a connection to a ticker and passes on each line. It returns when
// the connection has ended, or when nothing has come for the timeout.
func (c *client) watch(_ context.Context, conn *net.TCPConn) (Reply, error) {
	in := bufio.NewReader(conn)
	reply := Reply{Local: conn.LocalAddr().String()}
	for {
		if err := conn.SetReadDeadline(time.Now().Add(cmp.Or(c.req.Timeout, defaultTimeout))); err != nil {
			return reply, err
		}
		line, err := in.ReadString('\n')
		if err != nil {
			return reply, err
		}
		reply.Ticks++
		c.tell(Reply{Text: strings.TrimSpace(line), Ticks: reply.Ticks, Local: reply.Local})
	}
}
