package hbone

import (
	"context"
	"io"
	"testing"
)

// A peer that does not read makes nobody wait who must not, and what was taken arrives.
func TestWriteNow(t *testing.T) {
	read, got := make(chan struct{}), make(chan int64, 1)
	n := newNode(t, nodeConfig{server: ServerConfig{Handle: func(_ context.Context, in *Incoming) {
		s, err := in.Accept(nil)
		if err != nil {
			return
		}
		<-read
		all, _ := io.Copy(io.Discard, s)
		got <- all
	}}})
	s := n.open("10.0.0.1:80")
	piece, sent := make([]byte, 300<<10), 0
	for tries := 0; tries < 1000; tries++ { // each returns at once; the windows are 4 MiB
		if s.Room(1) > 0 {
			tries = 0
		}
		k, err := s.WriteNow(piece)
		if err != nil {
			t.Fatal(err)
		}
		sent += k
	}
	if sent == 0 || sent > streamWindow {
		t.Errorf("%d bytes were taken of a window of %d", sent, streamWindow)
	}
	close(read)
	s.CloseWrite()
	if all := <-got; all != int64(sent) {
		t.Errorf("%d bytes of %d arrived", all, sent)
	}
	if _, err := s.WriteNow(piece); err == nil {
		t.Error("there is an end, and yet more is taken")
	}
}

// Who waits for the peer's end is told, behind what is still to be read.
func TestOnEnd(t *testing.T) {
	for _, tt := range []struct {
		name  string
		early bool // it is asked for before the end
	}{{"before the end", true}, {"after it", false}} {
		t.Run(tt.name, func(t *testing.T) {
			told, state := make(chan struct{}), make(chan [2]bool, 1)
			n := newNode(t, nodeConfig{server: ServerConfig{Handle: func(_ context.Context, in *Incoming) {
				s, err := in.Accept(nil)
				if err != nil {
					return
				}
				if tt.early {
					s.OnEnd(func() { close(told) })
				} else {
					s.WaitReadable()
					s.CloseWrite() // now the peer ends
					io.ReadFull(s, make([]byte, 1))
					s.WaitReadable()
					s.OnEnd(func() { close(told) })
				}
				<-told
				before := s.Ended()
				io.Copy(io.Discard, s)
				state <- [2]bool{before, s.Ended()}
			}}})
			s := n.open("10.0.0.1:80")
			io.WriteString(s, "x")
			if !tt.early {
				io.Copy(io.Discard, s)
			}
			s.CloseWrite()
			if got, want := <-state, [2]bool{!tt.early, true}; got != want {
				t.Errorf("ended before and after all was read: %v, want %v", got, want)
			}
		})
	}
}
