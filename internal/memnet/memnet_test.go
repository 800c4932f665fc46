package memnet

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var addrA, addrB = netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2")

func TestHalfClose(t *testing.T) {
	a, b := Pipe(addrA, addrB)
	a.Write([]byte("question"))
	a.CloseWrite()
	if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	b.Write([]byte("answer"))
	b.Close()
	if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := a.Write([]byte("x")); err == nil {
		t.Error("a write after the end succeeds")
	}
}

func TestDeadlineInFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(addrA, addrB)
		defer b.Close()
		defer a.Close()
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Hour))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("Read = %v after %v", err, time.Since(start))
		}
		a.SetWriteDeadline(time.Now().Add(time.Minute))
		n, err := a.Write(make([]byte, 2*halfSize))
		if n != halfSize || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %d, %v", n, err)
		}
	})
}

func TestFaults(t *testing.T) {
	t.Run("reset loses what was on its way", func(t *testing.T) {
		a, b := Pipe(addrA, addrB)
		a.Write([]byte("lost"))
		a.Reset()
		if _, err := b.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read = %v", err)
		}
	})
	t.Run("a stalled cable delivers after it is mended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := Pipe(addrA, addrB)
			a.Stall(true)
			a.Write([]byte("late"))
			time.AfterFunc(time.Minute, func() { a.Stall(false) })
			start := time.Now()
			if n, err := b.Read(make([]byte, 9)); n != 4 || err != nil || time.Since(start) != time.Minute {
				t.Errorf("Read = %d, %v after %v", n, err, time.Since(start))
			}
		})
	})
}

func TestNetwork(t *testing.T) {
	var n Network
	if _, err := n.Dial(t.Context(), addrA.Addr(), addrB); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial without a listener: %v", err)
	}
	l, err := n.Listen(addrB)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Listen(addrB); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listener: %v", err)
	}
	c, err := n.Dial(t.Context(), addrA.Addr(), addrB)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection nobody accepted: %v", err)
	}
}
