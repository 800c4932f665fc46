package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestWindowInCompany(t *testing.T) {
	tests := []struct {
		name      string
		full      int
		roundTrip time.Duration
		want      int
	}{
		{"the same machine", 4 << 20, 20 * time.Microsecond, 512<<10 + 21474},
		{"the same zone", 4 << 20, time.Millisecond, 512<<10 + 1073741},
		{"another region", 4 << 20, 20 * time.Millisecond, 4 << 20},
		{"a small window stays", 64 << 10, 0, 64 << 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := windowInCompany(tt.full, tt.roundTrip); got != tt.want {
				t.Errorf("%d bytes, want %d", got, tt.want)
			}
		})
	}
}

// Company is another stream with small messages, a moment ago.
func TestCompany(t *testing.T) {
	now := time.Now()
	tests := []struct {
		name string
		note func(y *company)
		want bool
	}{
		{"nobody", func(*company) {}, false},
		{"the stream itself", func(y *company) { y.note(1, 100, now) }, false},
		{"another", func(y *company) { y.note(3, 100, now) }, true},
		{"another, then the stream itself", func(y *company) { y.note(3, 100, now); y.note(1, 100, now); y.note(1, 9, now) }, true},
		{"another's bulk", func(y *company) { y.note(3, 16<<10, now) }, false},
		{"another's empty frame", func(y *company) { y.note(3, 0, now) }, false},
		{"another, long ago", func(y *company) { y.note(3, 100, now.Add(-companyTime)) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var y company
			tt.note(&y)
			if got := y.has(1, now); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// While another stream carries small messages, the peer of a stream of bulk may have
// no more than the small window on its way; afterwards it has the whole one again.
// Everything arrives.
func TestBulkInCompany(t *testing.T) {
	short := Tuning{RoundTrip: func(net.Conn) (time.Duration, error) { return time.Microsecond, nil }}
	n := newNode(t, nodeConfig{
		server: ServerConfig{Tuning: short, Handle: func(ctx context.Context, in *Incoming) {
			if in.Authority.String() != "10.0.0.1:1" {
				echo(ctx, in)
				return
			}
			s, err := in.Accept(nil)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, s); err == nil {
				s.CloseWrite()
			}
		}},
		pool: PoolConfig{BulkConns: 1},
	})
	bulk, small := n.open("10.0.0.1:1"), n.open("10.0.0.1:2")
	if bulk.c != small.c {
		t.Fatal("the streams do not share a connection")
	}
	piece := make([]byte, 64<<10)
	send := func(total int) {
		t.Helper()
		for range total / len(piece) {
			if _, err := bulk.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
	}
	say := func() {
		t.Helper()
		var p [100]byte
		if _, err := small.Write(p[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(small, p[:]); err != nil {
			t.Fatal(err)
		}
	}
	window := func() int {
		bulk.c.mu.Lock()
		defer bulk.c.mu.Unlock()
		return bulk.sending.window
	}
	// Use up what was granted before there was company.
	for range 2 * streamWindow >> 20 {
		say()
		send(1 << 20)
	}
	most := 0
	for range 16 {
		say()
		send(256 << 10)
		say()
		most = max(most, window())
	}
	if limit := windowInCompany(streamWindow, time.Microsecond); most > limit {
		t.Errorf("in company the peer may send %d bytes ahead, more than %d", most, limit)
	}
	// Alone again: soon, but not at once.
	deadline := time.Now().Add(10 * time.Second)
	for window() < streamWindow/2 {
		if time.Now().After(deadline) {
			t.Fatalf("alone again, the peer may send only %d bytes ahead", window())
		}
		send(256 << 10)
	}
	if err := bulk.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, bulk); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("the stream did not end well: %v", err)
	}
}
