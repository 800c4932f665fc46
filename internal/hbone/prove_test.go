package hbone

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestPoolProves(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		long := n.open(Key{})
		pass(29 * time.Second)
		wantEcho(t, n.open(Key{}))
		synctest.Wait()
		if got := n.dials(); got != 1 {
			t.Errorf("%d connections within 30 s, want 1", got)
		}
		pass(2 * time.Second)
		s := n.open(Key{})
		wantEcho(t, s)
		synctest.Wait()
		if got := n.dials(); got != 2 {
			t.Errorf("%d connections after 30 s, want one more as a proof", got)
		}
		if got := n.pool.String(); got != "hbone pool of 1 connections to 1 peers" {
			t.Errorf("the proof was kept: %s", got)
		}
		if s.c != long.c {
			t.Error("the stream that asked for the proof did not take the connection that stood")
		}
		wantEcho(t, n.open(Key{}))
		synctest.Wait()
		if got := n.dials(); got != 2 {
			t.Errorf("%d connections right after a proof, want 2", got)
		}
		pass(time.Hour)
		synctest.Wait()
		if got := n.dials(); got != 2 {
			t.Errorf("%d connections although no stream began, want 2", got)
		}
		wantEcho(t, long)
	})
}

// A peer that cannot be reached any more takes no new streams on what stands.
// What lives there goes on.
func TestPoolProofFails(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		long := n.open(Key{})
		refuse := n.target(Key{})
		opened := make(chan struct{}) // a proof that fails before may refuse the stream, too
		refuse.Dial = func(ctx context.Context) (net.Conn, error) {
			select {
			case <-opened:
				return nil, syscall.ECONNREFUSED
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		pass(31 * time.Second)
		s, err := n.pool.Open(n.t.Context(), refuse, request(t, "10.0.0.2:80"))
		if err != nil {
			t.Fatalf("the stream that asks for the proof: %v", err)
		}
		close(opened)
		synctest.Wait()
		if _, err := n.pool.Open(n.t.Context(), refuse, request(t, "10.0.0.2:80")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after the proof has failed: %v, want that the peer refuses", err)
		}
		wantEcho(t, long)
		wantEcho(t, s)
		// And when it can be reached again, all is as before.
		wantEcho(t, n.open(Key{}))
	})
}

// failingDial makes no connection.
func failingDial(err error) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) { return nil, err }
}

// To be out of descriptors says nothing about the peer.
func TestPoolProofThatFailsByOurFault(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		long := n.open(Key{})
		target := n.target(Key{})
		target.Dial = failingDial(syscall.EMFILE)
		pass(31 * time.Second)
		for range 2 {
			if _, err := n.pool.Open(n.t.Context(), target, request(t, "10.0.0.2:80")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		wantEcho(t, long)
	})
}

func TestPoolNeverProves(t *testing.T) {
	inBubble(t, nodeConfig{pool: PoolConfig{ProveAfter: -1}}, func(n *memNode) {
		n.open(Key{})
		pass(time.Hour)
		wantEcho(t, n.open(Key{}))
		synctest.Wait()
		if got := n.dials(); got != 1 {
			t.Errorf("%d connections, want 1", got)
		}
	})
}

// The end of a pool does not wait for a proof.
func TestPoolCloseWhileProving(t *testing.T) {
	inBubble(t, nodeConfig{}, func(n *memNode) {
		n.open(Key{})
		pass(31 * time.Second)
		target := n.target(Key{})
		target.Dial = func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		if _, err := n.pool.Open(n.t.Context(), target, request(t, "10.0.0.2:80")); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		n.pool.Close()
		if took := time.Since(start); took > time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}

// The peer of a proof is told that it is not needed: it must not take what was a
// proof for a connection that broke.
func TestPoolProofSaysGoodbye(t *testing.T) {
	n := newNode(t, nodeConfig{pool: PoolConfig{ProveAfter: time.Nanosecond}})
	why, failed := make(chan error, 1), make(chan error, 1)
	n.server.trace.ConnClosed = func(_ ConnInfo, err error) { why <- err }
	n.server.trace.HandshakeFailed = func(_ netip.AddrPort, err error) { failed <- err }
	n.open("10.0.0.2:80")
	n.open("10.0.0.2:80")
	select {
	case err := <-why:
		if _, ok := errors.AsType[*GoAwayError](err); !ok {
			t.Errorf("the proof ended with %v, want GOAWAY", err)
		}
	case err := <-failed:
		t.Errorf("the proof was no connection: %v", err)
	}
	n.server.trace.ConnClosed, n.server.trace.HandshakeFailed = nil, nil
}
