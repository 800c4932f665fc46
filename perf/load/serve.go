package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Config says how the programs of a pod are run.
type Config struct {
	Control string // path of the Unix socket that takes orders
	// Listen is the address of the servers. Zero means all of the pod.
	Listen string
	// TunePorts gives the network namespace the widest range of local ports, so
	// that a load of many connections measures the mesh and not the range.
	TunePorts bool
}

// spareProcessors is how many more goroutines may run at a time than the machine
// has processors.
const spareProcessors = 2

// programs are the servers of a pod and what all loads have counted.
type programs struct {
	received, answers, connections atomic.Uint64
}

// counters returns what has been counted.
func (p *programs) counters() Counters {
	return Counters{Received: p.received.Load(), Answers: p.answers.Load(), Connections: p.connections.Load()}
}

// Run serves and takes orders until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	if cfg.TunePorts {
		// Our own namespace: nothing else of the machine sees it.
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("9000 65535"), 0); err != nil {
			return err
		}
	}
	// A thread that comes back from its sleep must not wait until the runtime has
	// a processor for it: there are more of them than busy goroutines of one load.
	runtime.GOMAXPROCS(runtime.NumCPU() + spareProcessors)
	ctx, cancel := context.WithCancel(ctx)
	var group lifecycle.Group
	defer group.Wait()
	defer cancel()

	p := &programs{}
	servers := []struct {
		port  int
		serve func(context.Context, net.Conn) error
	}{{WebPort, serveWeb}, {BulkPort, p.serveBulk}, {ChainPort, serveChain}, {CallPort, serveUnary}}
	for _, s := range servers {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("%s:%d", cfg.Listen, s.port))
		if err != nil {
			return err
		}
		group.Go(ctx, "accept", func(ctx context.Context) { acceptEach(ctx, ln, s.serve) })
	}
	control, err := new(net.ListenConfig).Listen(ctx, "unix", cfg.Control)
	if err != nil {
		return err
	}
	return p.takeOrders(ctx, control)
}

// acceptEach serves each connection until ctx ends, and returns when the last
// one has ended. Ends of connections are the other side's to tell.
func acceptEach(ctx context.Context, ln net.Listener, serve func(context.Context, net.Conn) error) {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var conns lifecycle.Group
	defer conns.Wait()
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			fmt.Fprintln(os.Stderr, "accept:", err)
			if lifecycle.Sleep(ctx, 10*time.Millisecond) != nil {
				return
			}
			continue
		}
		conns.Go(ctx, "serve", func(ctx context.Context) {
			cut := context.AfterFunc(ctx, func() { c.Close() })
			defer cut()
			defer c.Close()
			_ = serve(ctx, c) // whoever has asked sees how it ended
		})
	}
}

// takeOrders serves the control socket until ctx ends.
func (p *programs) takeOrders(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /counters", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(p.counters()) // when the asker has gone there is nobody to tell
	})
	mux.HandleFunc("POST /load", p.load)
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}

// load carries out one order. It ends when the asker goes.
func (p *programs) load(w http.ResponseWriter, r *http.Request) {
	var order Order
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := json.NewEncoder(w)
	tell := func(line reply) {
		_ = out.Encode(line) // when the asker has gone there is nobody to tell
		_ = http.NewResponseController(w).Flush()
	}
	g := &generator{programs: p, order: order, running: func() { tell(reply{Running: true}) }}
	err := g.run(r.Context())
	end := reply{Done: true, Result: g.result}
	if err != nil {
		end.Error = err.Error()
	}
	tell(end)
}
