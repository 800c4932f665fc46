package http1

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What we send on, another server reads as the same requests, and as nothing
// more: the server of the standard library stands for the application.
func FuzzForwardedRequestsMeanOneThing(f *testing.F) {
	f.Add(lines("POST /a HTTP/1.1", "Host: a", "Content-Length: 4", "", "abcdGET / HTTP/1.1", "Host: a", "", ""), 3)
	f.Add(lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "", "4", "abcd", "0", "X-Sum: 1", "", ""), 1)
	f.Add(lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "", "4", "abcd", "00a", "0123456789", "0", "", ""), 7)
	f.Add(lines("GET http://a/%2e%2e/b//c?d HTTP/1.1", "Host: A:80", "Connection: x", "X: y", "", ""), 100)
	f.Add(lines("OPTIONS * HTTP/1.0", "Host: [::1]:80", "Connection: keep-alive", "", ""), 100)
	f.Fuzz(func(t *testing.T, text string, size int) {
		size = 1 + max(0, size)%4096
		out, count, err := forward(text, size)
		_, countWhole, errWhole := forward(text, 1<<20)
		if errors.Is(err, errWaited) || errors.Is(errWhole, errWaited) {
			t.Fatal(errWaited)
		}
		if count != countWhole || (err == nil) != (errWhole == nil) {
			t.Fatalf("in pieces of %d %d requests and %v, as a whole %d and %v", size, count, err, countWhole, errWhole)
		}
		if err != nil {
			return // what went on before is complete, the rest is cut off
		}
		in := bufio.NewReader(strings.NewReader(out))
		for i := range count {
			req, err := http.ReadRequest(in)
			if err != nil {
				t.Fatalf("request %d of %d that we sent on is refused: %v\n%q", i, count, err, out)
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				t.Fatalf("body of request %d: %v\n%q", i, err, out)
			}
			if len(req.TransferEncoding) > 0 && req.ContentLength >= 0 {
				t.Fatalf("request %d has two lengths: %q", i, out)
			}
		}
		if rest, _ := io.ReadAll(in); len(rest) > 0 {
			t.Fatalf("behind %d requests another server finds %q", count, rest)
		}
		if _, countAgain, err := forward(out, size); err != nil || countAgain != count {
			t.Fatalf("we read our own words differently: %v, %d of %d requests\n%q", err, countAgain, count, out)
		}
	})
}
