package streamio

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// pipeFunc is a way to join two connections.
type pipeFunc func(ctx context.Context, in, out *net.TCPConn) error

// pipeFuncs are what the benchmarks compare: ours, ours without splice, and the
// plain proxy of the standard library, whose io.Copy splices too but counts
// only at the end.
var pipeFuncs = []struct {
	name string
	pipe pipeFunc
}{
	{"pipe", func(ctx context.Context, in, out *net.TCPConn) error { return Pipe(ctx, in, out, new(Counters)) }},
	{"pipe-copies", func(ctx context.Context, in, out *net.TCPConn) error {
		return pipeWith(ctx, in, out, new(Counters), true)
	}},
	{"io.Copy", func(_ context.Context, in, out *net.TCPConn) error {
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { io.Copy(in, out); in.CloseWrite() })
		_, err := io.Copy(out, in)
		out.CloseWrite()
		return err
	}},
}

// startPipe returns the applications' ends of a connection that pipe joins.
func startPipe(b *testing.B, pipe pipeFunc) (client, server *net.TCPConn) {
	client, in := tcpPair(b)
	out, server := tcpPair(b)
	var wg sync.WaitGroup
	wg.Go(func() { pipe(b.Context(), in, out) })
	b.Cleanup(func() {
		client.Close()
		server.Close()
		in.Close()
		out.Close()
		wg.Wait()
	})
	return client, server
}

// BenchmarkBulk measures one direction of one connection over loopback, the
// applications' own reads and writes of 256 KiB included.
func BenchmarkBulk(b *testing.B) {
	for _, f := range pipeFuncs {
		b.Run(f.name, func(b *testing.B) {
			client, server := startPipe(b, f.pipe)
			const size = 8 << 20
			var wg sync.WaitGroup
			defer wg.Wait()
			more := make(chan struct{}, 1)
			defer close(more)
			wg.Go(func() {
				block := make([]byte, 256<<10)
				for range more {
					for range size / len(block) {
						client.Write(block)
					}
				}
			})
			buf := make([]byte, 256<<10)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				more <- struct{}{}
				for left := size; left > 0; {
					n, err := server.Read(buf[:min(left, len(buf))])
					if err != nil {
						b.Fatal(err)
					}
					left -= n
				}
			}
		})
	}
}

// BenchmarkEcho measures a message of 1 KiB there and back over loopback, the
// applications included.
func BenchmarkEcho(b *testing.B) {
	for _, f := range pipeFuncs {
		b.Run(f.name, func(b *testing.B) {
			client, server := startPipe(b, f.pipe)
			var wg sync.WaitGroup
			wg.Go(func() { io.CopyBuffer(struct{ io.Writer }{server}, struct{ io.Reader }{server}, make([]byte, 4096)) })
			msg := make([]byte, 1024)
			b.SetBytes(2 * 1024)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Write(msg); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(client, msg); err != nil {
					b.Fatal(err)
				}
			}
			client.Close()
			wg.Wait()
		})
	}
}
