package hbone

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// maker makes two hops.
type maker struct {
	name string
	make func(testing.TB, string) twoHops
}

// makers are the ways to make the two hops, compared in one run: inside this
// process, and with a process for each proxy.
var makers = []maker{
	{"ours", ourHops},
	{"xnet", theirHops},
	{"ours-2proc", inProcesses("ours")},
	{"xnet-2proc", inProcesses("xnet")},
	{"fresh-2proc", inProcesses("fresh")}, // xnet, without a pool of buffers
}

// BenchmarkTwoHops measures bulk from a client to an application through two
// proxies, all in this process on loopback: one MiB per operation, spread over
// the streams.
func BenchmarkTwoHops(b *testing.B) {
	for _, streams := range []int{1, 8} {
		for _, m := range makers {
			b.Run(fmt.Sprintf("%s/%dstreams", m.name, streams), func(b *testing.B) {
				var got atomic.Int64
				buf := sync.Pool{New: func() any { b := make([]byte, 1<<20); return &b }}
				app := appListener(b, func(c *net.TCPConn) {
					p := buf.Get().(*[]byte)
					defer buf.Put(p)
					c.Write([]byte("k"))
					for {
						n, err := c.Read(*p)
						if got.Add(int64(n)); err != nil {
							return
						}
					}
				})
				hops := m.make(b, app)
				conns := make([]*net.TCPConn, streams)
				for i := range conns {
					conns[i] = dialTCP(b, hops.entry)
					conns[i].SetDeadline(time.Time{})
					io.ReadFull(conns[i], make([]byte, 1))
				}
				chunk := make([]byte, 1<<20)
				for _, c := range conns { // grow buffers
					for range 64 {
						c.Write(chunk)
					}
				}
				waitFor(&got, int64(streams)*64<<20)
				got.Store(0)
				b.SetBytes(1 << 20)
				b.ReportAllocs()
				b.ResetTimer()
				cpu := hops.cpuTime()
				var wg sync.WaitGroup
				var left atomic.Int64
				left.Store(int64(b.N))
				for _, c := range conns {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							c.Write(chunk)
						}
					})
				}
				wg.Wait()
				waitFor(&got, int64(b.N)<<20)
				b.StopTimer()
				b.ReportMetric(float64(hops.cpuTime()-cpu)/float64(b.N)/1e3, "cpu-us/op")
			})
		}
	}
}

// cpuTime is the CPU time of the proxies, or of this process if they are in it:
// on a machine with other work it tells more than the wall clock.
func (h twoHops) cpuTime() time.Duration {
	if h.cpu != nil {
		return h.cpu()
	}
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// waitFor waits until n has come.
func waitFor(got *atomic.Int64, n int64) {
	tick := time.NewTicker(50 * time.Microsecond)
	defer tick.Stop()
	for got.Load() < n {
		<-tick.C
	}
}

// BenchmarkNewConnections measures short connections over a warm tunnel: one
// connect, one byte each way, one close per operation, 16 at a time.
func BenchmarkNewConnections(b *testing.B) {
	direct := makers[0]
	direct.name, direct.make = "direct", func(_ testing.TB, app string) twoHops { return twoHops{entry: app} }
	for _, m := range append([]maker{direct}, makers...) {
		b.Run(m.name, func(b *testing.B) {
			app := appListener(b, func(c *net.TCPConn) { io.Copy(c, c); c.CloseWrite() })
			hops := m.make(b, app)
			once := func() error {
				c, err := net.Dial("tcp", hops.entry)
				if err != nil {
					return err
				}
				defer c.Close()
				c.Write([]byte("x"))
				_, err = io.ReadFull(c, make([]byte, 1))
				return err
			}
			if err := once(); err != nil {
				b.Fatal(err)
			}
			eachOf16(b, hops, once)
		})
	}
}

// BenchmarkOpenStream measures the tunnel's part of a short connection: a
// CONNECT, its 200, one byte each way, and the end of both directions, 16 at a
// time, with a handler that echoes and no sockets of applications.
func BenchmarkOpenStream(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		n := newNode(b, nodeConfig{server: ServerConfig{Handle: func(_ context.Context, in *Incoming) {
			if s, err := in.Accept(nil); err == nil {
				pooled.copy(s, s)
			}
		}}})
		n.open("10.0.0.1:80").Close()
		req := request(b, "10.0.0.1:80")
		eachOf16(b, twoHops{}, func() error {
			s, err := n.pool.Open(b.Context(), n.target(), req)
			if err != nil {
				return err
			}
			defer s.Close()
			return oneByte(s, s, s.CloseWrite)
		})
	})
	b.Run("xnet", func(b *testing.B) {
		h := newTheirs(b, newCerts(b), func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			pooled.copy(flushWriter{w, w.(http.Flusher)}, r.Body)
		})
		eachOf16(b, twoHops{}, func() error {
			w, res, err := h.open(b.Context(), "10.0.0.1:80")
			if err != nil {
				return err
			}
			defer res.Body.Close()
			return oneByte(res.Body, w, w.Close)
		})
	})
}

// oneByte sends a byte, reads it back, and ends both directions.
func oneByte(r io.Reader, w io.Writer, end func() error) error {
	var p [1]byte
	if _, err := w.Write(p[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return err
	}
	if err := end(); err != nil {
		return err
	}
	if _, err := r.Read(p[:]); err != io.EOF {
		return fmt.Errorf("want the end, got %v", err)
	}
	return nil
}

// eachOf16 runs once b.N times on 16 goroutines.
func eachOf16(b *testing.B, hops twoHops, once func() error) {
	b.ReportAllocs()
	b.ResetTimer()
	cpu := hops.cpuTime()
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	for range 16 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := once(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(hops.cpuTime()-cpu)/float64(b.N)/1e3, "cpu-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "conns/s")
}

// BenchmarkRoundTrip measures one byte there and back on open connections, one
// at a time and 64 at a time.
func BenchmarkRoundTrip(b *testing.B) {
	for _, clients := range []int{1, 64} {
		for _, m := range makers {
			b.Run(fmt.Sprintf("%s/%dclients", m.name, clients), func(b *testing.B) {
				app := appListener(b, func(c *net.TCPConn) { io.Copy(struct{ io.Writer }{c}, c) })
				hops := m.make(b, app)
				conns := make([]*net.TCPConn, clients)
				for i := range conns {
					conns[i] = dialTCP(b, hops.entry)
					conns[i].SetDeadline(time.Time{})
					conns[i].Write([]byte("x"))
					io.ReadFull(conns[i], make([]byte, 1))
				}
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				var left atomic.Int64
				left.Store(int64(b.N))
				for _, c := range conns {
					wg.Go(func() {
						p := make([]byte, 1)
						for left.Add(-1) >= 0 {
							c.Write(p)
							io.ReadFull(c, p)
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// BenchmarkIdleConnections measures what an idle tunnelled connection holds, in
// bytes of the Go runtime (heap and stacks) per proxy: the client's and the
// application's own sockets are counted apart and taken off.
func BenchmarkIdleConnections(b *testing.B) {
	const conns = 1000
	for _, m := range makers[:2] {
		b.Run(m.name, func(b *testing.B) {
			release := make(chan struct{})
			app := appListener(b, func(c *net.TCPConn) {
				io.CopyN(c, c, 1)
				<-release
			})
			b.Cleanup(func() { close(release) })
			plain := idleBytes(b, app, conns)
			through := idleBytes(b, m.make(b, app).entry, conns)
			b.ReportMetric(float64(through-plain)/conns/2, "B/conn/proxy")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// idleBytes opens so many connections to addr, each of which carries one byte
// both ways, and returns by how much the runtime's memory in use has grown.
func idleBytes(b *testing.B, addr string, conns int) int64 {
	before := inUse()
	for range conns {
		c := dialTCP(b, addr)
		c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		c.SetDeadline(time.Time{})
	}
	return inUse() - before
}

// inUse is the memory of live objects and of stacks.
func inUse() int64 {
	for range 6 { // stacks shrink by half at each
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
