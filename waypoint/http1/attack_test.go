package http1

import (
	"fmt"
	"strings"
	"testing"
)

// What two programs could read in two ways is refused: the request never reaches
// an application, and nothing behind it on the connection is read.
func TestAmbiguousRequestsAreRefused(t *testing.T) {
	const host = "Host: shop"
	tests := []struct {
		name, text string
		status     int
	}{
		{"length and chunks", lines("POST / HTTP/1.1", host, "Content-Length: 4", "Transfer-Encoding: chunked", "", "0", "", ""), 400},
		{"chunks and length", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "Content-Length: 4", "", "0", "", ""), 400},
		{"two lengths", lines("POST / HTTP/1.1", host, "Content-Length: 4", "Content-Length: 5", "", "abcde"), 400},
		{"one length twice", lines("POST / HTTP/1.1", host, "Content-Length: 4", "Content-Length: 4", "", "abcd"), 400},
		{"list of lengths", lines("POST / HTTP/1.1", host, "Content-Length: 4, 4", "", "abcd"), 400},
		{"signed length", lines("POST / HTTP/1.1", host, "Content-Length: +4", "", "abcd"), 400},
		{"negative length", lines("POST / HTTP/1.1", host, "Content-Length: -1", "", ""), 400},
		{"hexadecimal length", lines("POST / HTTP/1.1", host, "Content-Length: 0x4", "", "abcd"), 400},
		{"length that overflows", lines("POST / HTTP/1.1", host, "Content-Length: 18446744073709551617", "", "a"), 400},
		{"empty length", lines("POST / HTTP/1.1", host, "Content-Length:", "", "a"), 400},
		{"chunked twice", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", "", "0", "", ""), 400},
		{"chunked in a list", lines("POST / HTTP/1.1", host, "Transfer-Encoding: gzip, chunked", "", "0", "", ""), 501},
		{"chunked, then another", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked, identity", "", "0", "", ""), 501},
		{"unknown encoding", lines("POST / HTTP/1.1", host, "Transfer-Encoding: xchunked", "", "0", "", ""), 501},
		{"chunked with a vertical tab", lines("POST / HTTP/1.1", host, "Transfer-Encoding: \vchunked", "", "0", "", ""), 400},
		{"space before the colon", lines("POST / HTTP/1.1", host, "Transfer-Encoding : chunked", "", "0", "", ""), 400},
		{"tab before the colon", lines("POST / HTTP/1.1", host, "Content-Length\t: 4", "", "abcd"), 400},
		{"continued line", lines("GET / HTTP/1.1", host, "X: a", " b", "", ""), 400},
		{"continued first line", lines("GET / HTTP/1.1", " X: a", host, "", ""), 400},
		{"bare line feeds", "GET / HTTP/1.1\nHost: shop\n\n", 400},
		{"bare line feed in a field", "GET / HTTP/1.1\r\nHost: shop\r\nX: a\nY: b\r\n\r\n", 400},
		{"bare carriage return", "GET / HTTP/1.1\r\nHost: shop\r\nX: a\rContent-Length: 4\r\n\r\n", 400},
		{"zero byte", "GET / HTTP/1.1\r\nHost: shop\r\nX: a\x00b\r\n\r\n", 400},
		{"no colon", lines("GET / HTTP/1.1", host, "nonsense", "", ""), 400},
		{"empty name", lines("GET / HTTP/1.1", host, ": value", "", ""), 400},
		{"name with a bracket", lines("GET / HTTP/1.1", host, "Content[Length]: 4", "", ""), 400},
		{"no host", lines("GET / HTTP/1.1", "", ""), 400},
		{"two hosts", lines("GET / HTTP/1.1", host, "Host: other", "", ""), 400},
		{"one host twice", lines("GET / HTTP/1.1", host, host, "", ""), 400},
		{"host with a path", lines("GET / HTTP/1.1", "Host: shop/admin", "", ""), 400},
		{"host with a user", lines("GET / HTTP/1.1", "Host: admin@shop", "", ""), 400},
		{"host with a bad port", lines("GET / HTTP/1.1", "Host: shop:80:90", "", ""), 400},
		{"host and URL differ", lines("GET http://other/ HTTP/1.1", host, "", ""), 400},
		{"URL without a host", lines("GET http:///x HTTP/1.1", host, "", ""), 400},
		{"URL of another scheme", lines("GET file:///etc/passwd HTTP/1.1", host, "", ""), 400},
		{"two spaces", lines("GET  / HTTP/1.1", host, "", ""), 400},
		{"tab in the request line", lines("GET\t/ HTTP/1.1", host, "", ""), 400},
		{"space in the target", lines("GET /a b HTTP/1.1", host, "", ""), 400},
		{"no version", lines("GET /", host, "", ""), 400},
		{"version of old", lines("GET / HTTP/0.9", host, "", ""), 505},
		{"version to come", lines("GET / HTTP/2.0", host, "", ""), 505},
		{"small version", lines("GET / http/1.1", host, "", ""), 400},
		{"CONNECT", lines("CONNECT other:443 HTTP/1.1", host, "", ""), 405},
		{"star for GET", lines("GET * HTTP/1.1", host, "", ""), 400},
		{"chunks in HTTP/1.0", lines("POST / HTTP/1.0", host, "Transfer-Encoding: chunked", "", "0", "", ""), 400},
		{"chunk extension", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "", "4;a=b", "abcd", "0", "", ""), 400},
		{"chunk extension that hides a line end", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "", "2;\n", "xx", "0", "", ""), 400},
		{"chunk size with a space", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "", "4 ", "abcd", "0", "", ""), 400},
		{"chunk size with a sign", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "", "+4", "abcd", "0", "", ""), 400},
		{"chunk size with 0x", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "", "0x4", "abcd", "0", "", ""), 400},
		{"chunk size that overflows", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "", "10000000000000004", "abcd", "0", "", ""), 400},
		{"chunk that is longer than its size", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "", "3", "abcd", "0", "", ""), 400},
		{"chunk line ends in a line feed", "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n4\nabcd\r\n0\r\n\r\n", 400},
		{"length in the trailer", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "", "0", "Content-Length: 4", "", ""), 400},
		{"host in the trailer", lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "", "0", "Host: other", "", ""), 400},
		{"Connection names the host", lines("GET / HTTP/1.1", host, "Connection: close, Host", "", ""), 400},
		{"Connection names the proof", lines("GET / HTTP/1.1", host, "Authorization: x", "Connection: authorization", "", ""), 400},
		{"upgrade with a body", lines("POST / HTTP/1.1", host, "Connection: upgrade", "Upgrade: websocket", "Content-Length: 4", "", "abcd"), 400},
		{"two upgrades", lines("GET / HTTP/1.1", host, "Connection: upgrade", "Upgrade: websocket, h2c", "", ""), 400},
		{"unknown expectation", lines("GET / HTTP/1.1", host, "Expect: miracles", "", ""), 417},
		{"head without an end", "GET / HTTP/1.1\r\nHost: shop\r\n" + strings.Repeat("X: y\r\n", 20000), 431},
		{"long line", "GET /" + strings.Repeat("a", maxHead) + " HTTP/1.1\r\n\r\n", 431},
		{"too many fields", "GET / HTTP/1.1\r\nHost: shop\r\n" + strings.Repeat("X: y\r\n", maxFields) + "\r\n", 431},
		{"only empty lines", "\r\n\r\nGET / HTTP/1.1\r\nHost: shop\r\n\r\n", 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1 << 20, 1} {
				behind := tt.text + "GET /smuggled HTTP/1.1\r\nHost: shop\r\n\r\n"
				out, count, err := forward(behind, size)
				if got := statusOf(err); got != tt.status || count != 0 || strings.Contains(out, "smuggled") {
					t.Errorf("in pieces of %d: status %d (%v), %d requests went on; want %d and none\n%q", size, got, err, count, tt.status, out)
				}
			}
		})
	}
}

// What is good goes on from its parts.
func TestRequestsGoOn(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"as it came", lines("GET /a?b=c HTTP/1.1", "Host: Shop:80", "X-One: 1", "x-one: 2", "", ""), lines("GET /a?b=c HTTP/1.1", "Host: Shop:80", "X-One: 1", "x-one: 2", "", "")},
		{"empty line before it", "\r\n" + lines("GET / HTTP/1.1", "Host: a", "", ""), lines("GET / HTTP/1.1", "Host: a", "", "")},
		{"two in a row", strings.Repeat(lines("GET / HTTP/1.1", "Host: a", "", ""), 2), strings.Repeat(lines("GET / HTTP/1.1", "Host: a", "", ""), 2)},
		{"body of a length", lines("POST / HTTP/1.1", "Host: a", "Content-Length: 4", "", "abcd"), lines("POST / HTTP/1.1", "Host: a", "Content-Length: 4", "", "abcd")},
		{"POST without a body", lines("POST / HTTP/1.1", "Host: a", "", ""), lines("POST / HTTP/1.1", "Host: a", "Content-Length: 0", "", "")},
		{"chunks and trailer", lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "", "4", "abcd", "0", "X-Sum: 1", "", ""), lines("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "", "4", "abcd", "0", "X-Sum: 1", "", "")},
		{"URL in the request line", lines("GET http://SHOP/a HTTP/1.1", "Host: shop", "", ""), lines("GET /a HTTP/1.1", "Host: shop", "", "")},
		{"what is about the connection stays", lines("GET / HTTP/1.1", "Host: a", "Connection: keep-alive, X-Hop", "Keep-Alive: 5", "X-Hop: 1", "TE: trailers", "Upgrade: h2c", "HTTP2-Settings: AA", "", ""), lines("GET / HTTP/1.1", "Host: a", "Connection: TE", "TE: trailers", "", "")},
		{"upgrade", lines("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", "", ""), lines("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", "", "")},
		{"h2c is no upgrade of ours", lines("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: h2c", "", ""), lines("GET / HTTP/1.1", "Host: a", "", "")},
		{"path in canonical form", lines("GET /a/./b/%7euser/../c//d HTTP/1.1", "Host: a", "", ""), lines("GET /a/b/c/d HTTP/1.1", "Host: a", "", "")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1 << 20, 1, 7} {
				got, _, err := forward(tt.in, size)
				if err != nil {
					t.Fatal(err)
				}
				if got = oneChunk(got); got != tt.want {
					t.Errorf("in pieces of %d:\n got %q\nwant %q", size, got, tt.want)
				}
			}
		})
	}
}

// oneChunk joins the chunks of a body, which go on as they were read.
func oneChunk(s string) string {
	head, tail, _ := strings.Cut(s, "\r\n\r\n")
	if !strings.Contains(head, "Transfer-Encoding") {
		return s
	}
	for text := ""; ; {
		size, rest, _ := strings.Cut(tail, "\r\n")
		if size == "0" {
			return fmt.Sprintf("%s\r\n\r\n%x\r\n%s\r\n0\r\n%s", head, len(text), text, rest)
		}
		n := int(size[0] - '0')
		text, tail = text+rest[:n], rest[n+2:]
	}
}
