package grpcclient

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatchRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "root-cert.pem")
		one, two := []byte(newAuthority(t).pem), []byte(newAuthority(t).pem)
		put := func(text []byte) {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put(one)
		var calls atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := WatchRoots(ctx, path, func() { calls.Add(1) }); err != nil {
				t.Error(err)
			}
		})
		defer func() { cancel(); wg.Wait() }()
		want := func(why string, after time.Duration, n int) {
			t.Helper()
			<-time.After(after)
			synctest.Wait()
			if got := int(calls.Load()); got != n {
				t.Errorf("%s: %d calls, want %d", why, got, n)
			}
		}
		want("nothing has changed", time.Minute, 0)
		put(one)
		want("written anew with the same content", time.Minute, 0)
		put(append(append([]byte{}, one...), two...))
		want("a root more", lookAgain, 1)
		want("and once more for who was late", tellAgain, 2)
		want("and no more", time.Minute, 2)
		put(nil)
		want("empty: being written", time.Minute, 2)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		want("away", time.Minute, 2)
		put(two)
		want("a root less", lookAgain, 3)
		put(one)
		want("changed again at once", lookAgain, 4)
		want("once more after the last change", tellAgain, 5)
		want("and no more", time.Minute, 5)
	})
}

// What is no file never changes.
func TestWatchRootsThatAreNoFile(t *testing.T) {
	for _, roots := range []string{"SYSTEM", newAuthority(t).pem} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := WatchRoots(ctx, roots, func() { t.Error("changed") }); err != nil {
			t.Error(err)
		}
	}
}

func TestRootFingerprints(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	path := filepath.Join(t.TempDir(), "root-cert.pem")
	if err := os.WriteFile(path, []byte(a.pem+"-----BEGIN RUBBISH-----\n-----END RUBBISH-----\n"+b.pem), 0o600); err != nil {
		t.Fatal(err)
	}
	of := func(all ...*authority) (out []string) {
		for _, a := range all {
			out = append(out, fmt.Sprintf("%x", sha256.Sum256(a.cert.Raw)))
		}
		return out
	}
	for _, tt := range []struct {
		name, roots string
		want        []string
	}{
		{"a file", path, of(a, b)},
		{"text", b.pem, of(b)},
		{"those of the system", "SYSTEM", nil},
		{"no file", path + ".not", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := RootFingerprints(tt.roots); !slices.Equal(got, tt.want) {
				t.Errorf("fingerprints %q, want %q", got, tt.want)
			}
		})
	}
}
