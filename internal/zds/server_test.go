package zds

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// pod1 is a pod, and add1 the packet that hands it over.
func pod1(t testing.TB) Pod {
	return Pod{UID: "u1", Info: Info{Name: "web", Namespace: "shop", ServiceAccount: "front"}, NS: netnstest.New(t)}
}

const (
	add1  = "0a 18 0a 02 'u1' 12 12 0a 03 'web' 12 04 'shop' 1a 05 'front'"
	keep1 = "2a 04 0a 02 'u1'"
	del1  = "12 04 12 02 'u1'"
	done  = "1a 00"
	ok    = "0a 00"
	hello = "08 01"
)

func TestServerSaysByteForByteWhatTheProtocolSays(t *testing.T) {
	s := newServer(t, ServerConfig{})
	p := pod1(t)
	s.setPods(p, Pod{UID: "u2"})
	z := s.connect()
	z.write("hello", hello)
	if ns := z.want("snapshot: a pod with its namespace", add1); ns == nil || ns.ID() != p.NS.ID() {
		t.Fatalf("the namespace beside the add is %v, want %v", ns, p.NS)
	}
	if s.Connected() {
		t.Error("ready before the snapshot was taken")
	}
	z.write("ack", ok)
	if ns := z.want("snapshot: a pod without a namespace is kept", "2a 04 0a 02 'u2'"); ns != nil {
		t.Error("a keep came with a descriptor")
	}
	z.write("ack", ok)
	z.want("end of the snapshot", done)
	z.write("ack", ok)
	s.waitUntil("ready", s.Connected)

	added := start(t, func() error { return s.Add(t.Context(), p) })
	if ns := z.want("a pod that came later", add1); ns == nil {
		t.Fatal("an add without a namespace")
	}
	z.write("ack", ok)
	if err := <-added; err != nil {
		t.Errorf("Add = %v", err)
	}
	deleted := start(t, func() error { return s.Del(t.Context(), "u1") })
	if ns := z.want("a pod that went, its uid in field 2", del1); ns != nil {
		t.Error("a del came with a descriptor")
	}
	z.write("ack", ok)
	if err := <-deleted; err != nil {
		t.Errorf("Del = %v", err)
	}
}

func TestRefusalIsAnErrorOfThatPodAlone(t *testing.T) {
	s := newServer(t, ServerConfig{})
	s.setPods(Pod{UID: "u2"}, Pod{UID: "u3"})
	z := s.connect()
	z.write("hello", hello)
	z.want("first of the snapshot", "2a 04 0a 02 'u2'")
	z.write("nack", "0a 04 0a 02 'no'")
	z.want("the snapshot goes on", "2a 04 0a 02 'u3'")
	z.write("ack", ok)
	z.want("to its end", done)
	z.write("ack", ok)

	added := start(t, func() error { return s.Add(t.Context(), pod1(t)) })
	z.want("add", add1)
	z.write("nack", "0a 06 0a 04 'busy'")
	var refused *AckError
	if err := <-added; !errors.As(err, &refused) || refused.Text != "busy" || refused.UID != "u1" {
		t.Errorf("Add = %v, want an AckError of u1 that says busy", err)
	}
	again := start(t, func() error { return s.Add(t.Context(), pod1(t)) })
	z.want("the connection lives on", add1)
	z.write("ack", ok)
	if err := <-again; err != nil {
		t.Error(err)
	}
}

func TestTwoZtunnelConnectionsAddGoesToTheLatestAndDelToAll(t *testing.T) {
	s := newServer(t, ServerConfig{})
	old, young := s.connectEmpty(), s.connectEmpty()
	s.waitUntil("two ztunnels", func() bool { return s.peerCount() == 2 })
	added := start(t, func() error { return s.Add(t.Context(), pod1(t)) })
	young.want("the latest gets the add", add1)
	young.write("ack", ok)
	if err := <-added; err != nil {
		t.Error(err)
	}
	deleted := start(t, func() error { return s.Del(t.Context(), "u1") })
	young.want("both get the del", del1)
	old.want("both get the del, and the older no add before it", del1)
	young.write("ack", ok)
	old.write("ack", ok)
	if err := <-deleted; err != nil {
		t.Error(err)
	}
	young.c.Close()
	s.waitUntil("the younger is gone", func() bool { return s.peerCount() == 1 })
	added = start(t, func() error { return s.Add(t.Context(), pod1(t)) })
	old.want("now the older is the latest", add1)
	old.write("ack", ok)
	if err := <-added; err != nil {
		t.Error(err)
	}
}

func TestAddWaitsForAZtunnel(t *testing.T) {
	s := newServer(t, ServerConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Add(ctx, pod1(t)); !errors.Is(err, ErrNoPeer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Add without a ztunnel = %v, want ErrNoPeer at the deadline", err)
	}
	added := start(t, func() error { return s.Add(t.Context(), pod1(t)) })
	z := s.connectEmpty()
	z.want("the add that was waiting", add1)
	z.write("ack", ok)
	if err := <-added; err != nil {
		t.Error(err)
	}
}

func TestAddSurvivesALostConnection(t *testing.T) {
	s := newServer(t, ServerConfig{})
	first := s.connectEmpty()
	added := start(t, func() error { return s.Add(t.Context(), pod1(t)) })
	first.want("add", add1)
	first.c.Close() // instead of an answer
	second := s.connectEmpty()
	second.want("the same add", add1)
	second.write("ack", ok)
	if err := <-added; err != nil {
		t.Error(err)
	}
}

func TestDeadZtunnelIsNoticedAtOnce(t *testing.T) {
	s := newServer(t, ServerConfig{})
	z := s.connectEmpty()
	s.waitUntil("ready", s.Connected)
	z.c.Close()
	s.waitUntil("not ready", func() bool { return !s.Connected() })
}

func TestReconnectGetsAFullSnapshot(t *testing.T) {
	s := newServer(t, ServerConfig{})
	s.connectEmpty().c.Close()
	s.setPods(pod1(t))
	z := s.connect()
	z.write("hello", hello)
	z.want("all pods", add1)
}

// Acks carry no id: a late one could not be told from the next.
func TestLateAckEndsTheConnection(t *testing.T) {
	s := newServer(t, ServerConfig{MessageTimeout: 50 * time.Millisecond})
	z := s.connectEmpty()
	added := start(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		return s.Add(ctx, pod1(t))
	})
	z.want("add", add1)
	z.wantEnd("no answer in time")
	if err := <-added; !errors.Is(err, ErrNoPeer) {
		t.Errorf("Add = %v, want ErrNoPeer: no other ztunnel came", err)
	}
}

func TestServerEndsConversationsThatBreakTheProtocol(t *testing.T) {
	devNull, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer devNull.Close()
	fd := int(devNull.Fd())
	for _, tt := range []struct {
		name string
		say  func(z end)
	}{
		{"a hello that is no message", func(z end) { z.write("hello", "ff ff") }},
		{"a hello with a descriptor", func(z end) { z.write("hello", hello, fd) }},
		{"a hello of 1025 bytes", func(z end) { z.write("hello", strings.Repeat("00", 1025)) }},
		{"no hello at all", func(end) {}},
		{"an answer that is no message", func(z end) { z.write("hello", hello); z.want("end", done); z.write("ack", "0a ff") }},
		{"an answer that is no ack", func(z end) { z.write("hello", hello); z.want("end", done); z.write("ack", "12 00") }},
		{"an answer with a descriptor", func(z end) { z.write("hello", hello); z.want("end", done); z.write("ack", ok, fd) }},
		{"an answer with many descriptors", func(z end) { z.write("hello", hello); z.want("end", done); z.write("ack", ok, fd, fd, fd, fd) }},
		{"an answer to nothing", func(z end) { z.write("hello", hello); z.want("end", done); z.write("ack", ok); z.write("another", ok) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, ServerConfig{MessageTimeout: 200 * time.Millisecond})
			z := s.connect()
			tt.say(z)
			z.wantEnd(tt.name)
			s.waitUntil("gone", func() bool { return s.peerCount() == 0 })
			s.connectEmpty() // and the next one is served
		})
	}
}

func TestStrangersAreNotLetIn(t *testing.T) {
	s := newServer(t, ServerConfig{AllowUIDs: []uint32{4242}})
	z := s.connect()
	z.wantEnd("our user may not be a ztunnel")
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ends) != 1 || !strings.Contains(s.ends[0].Error(), "may not be a ztunnel") {
		t.Errorf("the trace says %v, want that the user may not be a ztunnel", s.ends)
	}
}

func TestPodRemovedDuringASnapshotIsLeftOut(t *testing.T) {
	s := newServer(t, ServerConfig{})
	gone := pod1(t)
	gone.NS.Close()
	s.setPods(gone, Pod{UID: "u2"})
	z := s.connect()
	z.write("hello", hello)
	z.want("the other pod", "2a 04 0a 02 'u2'")
	z.write("ack", ok)
	z.want("end", done)
}

func TestRemovalGoesOutThoughNobodyWaits(t *testing.T) {
	s := newServer(t, ServerConfig{})
	z := s.connectEmpty()
	s.waitUntil("ready", s.Connected)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Add(ctx, pod1(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("Add = %v, want that nobody waits", err)
	}
	s.Del(ctx, "u1")
	got, _ := z.read("the add may be there or not, the removal must")
	if string(got) == string(unhex(t, add1)) {
		z.write("ack", ok)
		got, _ = z.read("the removal")
	}
	if string(got) != string(unhex(t, del1)) {
		t.Errorf("got % x, want the removal", got)
	}
	z.write("ack", ok)
}

func TestMessageThatDoesNotFitIsNotSent(t *testing.T) {
	s := newServer(t, ServerConfig{})
	s.connectEmpty()
	p := pod1(t)
	p.Name = strings.Repeat("x", packetSize)
	if err := s.Add(t.Context(), p); err == nil || !strings.Contains(err.Error(), "1024") {
		t.Errorf("Add = %v, want a word about the size", err)
	}
}

// A pod whose names do not fit into a packet must not keep a ztunnel from all
// the others.
func TestPodThatDoesNotFitLeavesTheSnapshotWhole(t *testing.T) {
	s := newServer(t, ServerConfig{})
	s.setPods(Pod{UID: strings.Repeat("u", packetSize)}, Pod{UID: "u2"})
	z := s.connect()
	z.write("hello", hello)
	z.want("the pod that fits", "2a 04 0a 02 'u2'")
	z.write("ack", ok)
	z.want("the end of the snapshot", done)
	z.write("ack", ok)
	s.waitUntil("ready", s.Connected)
}
