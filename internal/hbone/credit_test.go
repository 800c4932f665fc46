package hbone

import (
	"context"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
)

// What a peer may send on a connection is told at once, also where nobody reads what came:
// it may have nothing else to wait for, and we nothing else to say.
func TestCreditForWhatNobodyReads(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(a *attacker, i int) (bytes int)
	}{
		{"padding", func(a *attacker, i int) int {
			if i == 0 {
				a.open()
			}
			a.fr.WriteDataPadded(1, false, []byte{1}, make([]byte, 255))
			return 257
		}},
		{"a closed stream", func(a *attacker, i int) int {
			if i == 0 {
				a.open()
				a.fr.WriteRSTStream(1, 8)
			}
			a.fr.WriteData(1, false, make([]byte, 1<<10))
			return 1 << 10
		}},
		{"DATA before the 2xx", func(a *attacker, i int) int {
			id := uint32(2*i + 1)
			a.connect(id, hpack.HeaderField{Name: "hold", Value: "1"})
			a.fr.WriteData(id, false, make([]byte, 8<<10))
			return 8 << 10
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const window = 256 << 10
			n := newNode(t, nodeConfig{server: ServerConfig{
				Tuning: Tuning{ConnWindow: window, StreamWindow: window},
				Handle: func(ctx context.Context, in *Incoming) {
					if in.Header.Get("hold") != "" {
						<-ctx.Done()
						return
					}
					if s, err := in.Accept(nil); err == nil {
						io.Copy(io.Discard, s)
					}
				},
			}})
			a := newAttacker(t, n)
			eventually(t, "the first window", func() bool { return a.credit.Load() == window-defaultPeerWindow })
			a.credit.Store(0)
			for i, sent := 0, 0; sent <= window/creditParts; i++ {
				sent += tt.send(a, i)
			}
			a.flush()
			pinged := time.Now().Add(5 * time.Second) // a PING would take it along after ten
			eventually(t, "credit for a quarter of the window", func() bool { return a.credit.Load() > 0 })
			if time.Now().After(pinged) {
				t.Error("the credit was told with something else, long after")
			}
		})
	}
}
