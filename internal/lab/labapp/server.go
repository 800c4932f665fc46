package labapp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// tickEvery is how often the ticker speaks: often enough to tell within which
// tenth of a second a connection was cut.
const tickEvery = 20 * time.Millisecond

// Config says who the programs are.
type Config struct {
	Pod     string // namespace/name, said by the HTTP server
	Control string // path of the Unix socket for clients
	// Linger is how long the servers go on after ctx has ended, as a program does that
	// is slow to obey SIGTERM. HTTP answers tell clients meanwhile to connect anew.
	Linger time.Duration
}

// Run serves until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	asked := ctx.Done()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx)) // ends after the linger
	defer cancel(nil)
	var group lifecycle.Group
	defer group.Wait()

	servers := map[uint16]func(context.Context, *net.TCPConn) error{
		EchoPort:   echo,
		BannerPort: func(ctx context.Context, c *net.TCPConn) error { return banner(ctx, cfg.Pod, c) },
		SumPort:    sum,
		SourcePort: source,
		TickerPort: ticker,
	}
	for port, serve := range servers {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			cancel(err)
			return err
		}
		group.Go(ctx, "accept", func(ctx context.Context) { acceptEach(ctx, ln, serve) })
	}
	web, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf(":%d", HTTPPort))
	if err != nil {
		cancel(err)
		return err
	}
	group.Go(ctx, "http", func(ctx context.Context) { serveHTTP(ctx, web, cfg.Pod, asked) })
	health, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf(":%d", HealthPort))
	if err != nil {
		cancel(err)
		return err
	}
	group.Go(ctx, "health", func(ctx context.Context) { serveGRPC(ctx, health, cfg.Pod) })
	control, err := new(net.ListenConfig).Listen(ctx, "unix", cfg.Control)
	if err != nil {
		cancel(err)
		return err
	}
	group.Go(ctx, "control", func(ctx context.Context) { serveControl(ctx, control) })
	<-asked
	err = lifecycle.Sleep(ctx, cfg.Linger)
	cancel(nil)
	return err
}

// acceptEach serves each connection until the listener's context ends, and
// returns when the last one has ended.
func acceptEach(ctx context.Context, ln net.Listener, serve func(context.Context, *net.TCPConn) error) {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var conns lifecycle.Group
	defer conns.Wait()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		conns.Go(ctx, "serve", func(ctx context.Context) {
			cut := context.AfterFunc(ctx, func() { c.Close() })
			defer cut()
			defer c.Close()
			if err := serve(ctx, c.(*net.TCPConn)); err != nil && ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "%v from %v: %v\n", ln.Addr(), c.RemoteAddr(), err)
			}
		})
	}
}

// echo sends back what it gets, and ends when the client has ended.
func echo(_ context.Context, c *net.TCPConn) error {
	_, err := io.Copy(c, c)
	return err
}

// banner speaks first.
func banner(ctx context.Context, pod string, c *net.TCPConn) error {
	if _, err := fmt.Fprintf(c, "220 %s ready\n", pod); err != nil {
		return err
	}
	return echo(ctx, c)
}

// sum answers only after the client has ended its side: it works through a proxy
// only when that passes on a half-close.
func sum(_ context.Context, c *net.TCPConn) error {
	got := newSummer()
	if _, err := io.Copy(got, c); err != nil {
		return err
	}
	raw, err := json.Marshal(got.sum())
	if err != nil {
		return err
	}
	_, err = c.Write(append(raw, '\n'))
	return err
}

// source sends as many bytes as the client asks for.
func source(_ context.Context, c *net.TCPConn) error {
	line, err := bufio.NewReader(io.LimitReader(c, 32)).ReadString('\n')
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil || n < 0 {
		return errors.New("want a number of bytes in a line")
	}
	_, err = io.CopyN(c, newPattern(), n)
	return err
}

// ticker sends a line every 20 ms until the client goes.
func ticker(ctx context.Context, c *net.TCPConn) error {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for n := 1; ; n++ {
		if _, err := fmt.Fprintf(c, "tick %d\n", n); err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// serveGRPC answers probes, and talks.
func serveGRPC(ctx context.Context, ln net.Listener, pod string) {
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer()) // SERVING, unless told otherwise
	(&talker{pod: pod}).register(server)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(ln); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "grpc:", err)
	}
}

// markerHeader carries the marker of a load, both ways.
const markerHeader = "X-Marker"
