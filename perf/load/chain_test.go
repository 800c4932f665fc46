package load

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// A request visits every server of a chain before it is answered, and a chain
// that ends nowhere is an error of the load.
func TestChain(t *testing.T) {
	last, middle, first := startPod(t, serveChain), startPod(t, serveChain), startPod(t, serveChain)
	got := first.result(t, Order{
		Kind: Most, Address: first.web, Connections: 2, Chain: []string{middle.web, last.web}, Window: 50 * time.Millisecond,
	})
	h, err := Decode(got.Latency)
	if err != nil || h.TotalCount() == 0 {
		t.Fatalf("%v exchanges, %v", h, err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nowhere := ln.Addr().String()
	ln.Close()
	_, err = first.Start(t.Context(), Order{
		Kind: Most, Address: first.web, Connections: 1, Chain: []string{middle.web, nowhere}, Window: time.Second,
	})
	if err == nil {
		t.Error("a chain with a server that is not there has answered")
	}
}

func FuzzChainOf(f *testing.F) {
	f.Add([]byte(requestKeep))
	f.Add(chainRequest([]string{"10.0.0.1:80", "10.0.0.2:80"}))
	f.Add([]byte("GET /\r\nChain: ,,\r\n\r\n"))
	f.Fuzz(func(t *testing.T, head []byte) {
		next, rest := chainOf(head)
		if next == "" || slices.Contains(rest, "") {
			return
		}
		// What the next one is asked says the rest, and nothing else.
		again, rest2 := chainOf(chainRequest(rest))
		if got := append([]string{again}, rest2...); len(rest) > 0 && !slices.Equal(got, rest) || len(rest) == 0 && again != "" {
			t.Errorf("%q: rest %q became %q", head, rest, got)
		}
		if strings.Contains(next, ",") || strings.Contains(next, "\r\n") {
			t.Errorf("%q: next is %q", head, next)
		}
	})
}
