package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

func TestEcho(t *testing.T) {
	n := newNode(t, nodeConfig{})
	s := n.open("10.0.0.1:80")
	msg := make([]byte, 3<<20)
	for i := range msg {
		msg[i] = byte(rand.Uint32())
	}
	go func() {
		s.Write(msg)
		s.CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, msg) {
		t.Fatalf("echo gave %d of %d bytes, %v", len(got), len(msg), err)
	}
}

func TestRefusedStatus(t *testing.T) {
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: func(_ context.Context, in *Incoming) { in.Refuse(401) }}})
	_, err := n.pool.Open(t.Context(), n.target(), request(t, "10.0.0.1:80"))
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Status != 401 {
		t.Fatalf("Open = %v, want status 401", err)
	}
	if Retryable(err) {
		t.Error("a 401 is retryable")
	}
}
