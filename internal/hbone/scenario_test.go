package hbone

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"testing"
)

// What has arrived waits for its reader: an application that reads a byte, or a
// little, or much at a time gets all of it in order, also when the peer has ended
// long before; and what one stream leaves unread does not keep another waiting.
func TestPoolReadBuffering(t *testing.T) {
	want := randomBytes(200 << 10) // below one stream's window: nobody has to read for it to be sent
	var ended atomic.Int32
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: func(_ context.Context, in *Incoming) {
		s, err := in.Accept(nil)
		if err != nil {
			return
		}
		if _, err := s.Write(want); err == nil && s.CloseWrite() == nil {
			ended.Add(1)
		}
		io.Copy(io.Discard, s)
	}}})
	unread := n.open("10.0.0.2:80")
	for i, size := range []int{1, 7, 4096, 16384, 1 << 20} {
		s := n.open("10.0.0.2:80")
		eventually(t, "the peer has said all, to nobody who reads", func() bool { return ended.Load() == int32(i+2) })
		var got bytes.Buffer
		buf := make([]byte, size)
		for {
			k, err := s.Read(buf)
			got.Write(buf[:k])
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("reads of %d: %v after %d bytes", size, err, got.Len())
			}
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("reads of %d: got %d bytes that are not the %d sent", size, got.Len(), len(want))
		}
	}
	if got := n.dials.Load(); got != 1 {
		t.Errorf("%d connections, want 1: the unread stream shares it", got)
	}
	if got, err := io.ReadAll(unread); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the stream that was left unread has %d bytes, %v; want %d", len(got), err, len(want))
	}
}
