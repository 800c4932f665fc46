package http1

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/ambit-mesh/ambit/waypoint/message"
)

// A request and an answer as services of a mesh exchange them.
var (
	question = "GET /api/orders/7?full=1 HTTP/1.1\r\nHost: orders.shop.svc.cluster.local\r\nUser-Agent: bench\r\nAccept: */*\r\nX-Request-Id: 0a1b2c3d\r\n\r\n"
	answer   = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: app\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024)
)

// BenchmarkCodec measures what a hop does with one request and its answer, over
// memory: parse and write both. Beside this codec stand those that could have
// been used.
func BenchmarkCodec(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		var req message.Request
		var resp message.Response
		w := NewWriter(io.Discard)
		in, back := &pieces{size: 1 << 20}, &pieces{size: 1 << 20}
		down, up := NewReader(in), NewReader(back)
		buf := make([]byte, bufferSize)
		for b.Loop() {
			in.text, back.text = question, answer
			if err := down.ReadRequest(&req); err != nil {
				b.Fatal(err)
			}
			w.Request(&req)
			w.Flush()
			if err := up.ReadResponse(req.Method, &resp); err != nil {
				b.Fatal(err)
			}
			w.Response(req.Method, req.Version, &resp, false)
			n, _ := resp.Body.Read(buf)
			w.Body(buf[:n])
			w.End(nil)
			w.Flush()
		}
	})
	b.Run("fasthttp", func(b *testing.B) {
		b.ReportAllocs()
		var req fasthttp.Request
		var resp fasthttp.Response
		in, back := &pieces{size: 1 << 20}, &pieces{size: 1 << 20}
		down, up, w := bufio.NewReader(in), bufio.NewReader(back), bufio.NewWriter(io.Discard)
		for b.Loop() {
			in.text, back.text = question, answer
			if err := req.Read(down); err != nil {
				b.Fatal(err)
			}
			req.Write(w)
			w.Flush()
			if err := resp.Read(up); err != nil {
				b.Fatal(err)
			}
			resp.Write(w)
			w.Flush()
		}
	})
	b.Run("net-http", func(b *testing.B) {
		b.ReportAllocs()
		in, back := &pieces{size: 1 << 20}, &pieces{size: 1 << 20}
		down, up, w := bufio.NewReader(in), bufio.NewReader(back), bufio.NewWriter(io.Discard)
		for b.Loop() {
			in.text, back.text = question, answer
			req, err := http.ReadRequest(down)
			if err != nil {
				b.Fatal(err)
			}
			req.Write(w)
			w.Flush()
			resp, err := http.ReadResponse(up, req)
			if err != nil {
				b.Fatal(err)
			}
			resp.Write(w)
			w.Flush()
		}
	})
}
