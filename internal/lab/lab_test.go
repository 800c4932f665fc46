package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
	"github.com/ambit-mesh/ambit/internal/lab/proc"
)

// newPlainLab builds nodes and pods without a mesh, under a name of its own.
func newPlainLab(t *testing.T) *Lab {
	t.Helper()
	mustBeRoot(t)
	cfg := Config{
		Name: "lt" + strings.ToLower(rand.Text()[:6]), BinDir: mustBuildCNI(t), NoMesh: true,
		App: []string{os.Args[0], "lab-app"},
	}
	l, err := Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if left, err := leftNamespaces(cfg.Name, State{}); err != nil || len(left) > 0 {
			t.Errorf("namespaces after Close: %v, %v", left, err)
		}
		if _, err := os.Stat(l.Dir()); err == nil {
			t.Errorf("%s is still there after Close", l.Dir())
		}
	})
	return l
}

// Without a mesh the lab must be an ordinary cluster network: what a line of the
// demo shows then comes from the mesh.
func TestPlainLab(t *testing.T) {
	l := newPlainLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	web, api1, api2 := l.Pod("shop", "web"), l.Pod("books", "api-1"), l.Pod("books", "api-2")

	t.Run("pods of two nodes reach each other", func(t *testing.T) {
		hello, err := web.Hello(ctx, api2.At(HTTPPort))
		if err != nil {
			t.Fatal(err)
		}
		remote := netip.MustParseAddrPort(hello.Remote)
		if hello.Pod != "books/api-2" || remote.Addr() != web.Address {
			t.Errorf("hello = %+v, want from books/api-2 with remote %v", hello, web.Address)
		}
	})
	t.Run("pods of one node reach each other", func(t *testing.T) {
		if _, err := web.Hello(ctx, api1.At(HTTPPort)); err != nil {
			t.Error(err)
		}
	})
	t.Run("programs", func(t *testing.T) { testPrograms(ctx, t, web, api2) })
	t.Run("the wire between the nodes shows what is sent", func(t *testing.T) { testWire(ctx, t, l, web, api2) })
	t.Run("a pod without a mesh has no rules", func(t *testing.T) {
		if found, err := web.Residue(); err != nil || len(found) > 0 {
			t.Errorf("Residue = %v, %v, want none", found, err)
		}
	})
	t.Run("sabotage hits and is repaired", func(t *testing.T) { testSabotage(ctx, t, web, api2) })
	t.Run("a second lab of the name is refused", func(t *testing.T) {
		if _, err := Up(ctx, l.Config()); !errors.Is(err, ErrBusy) {
			t.Errorf("Up = %v, want ErrBusy", err)
		}
	})
	t.Run("a pod can be stopped and started", func(t *testing.T) {
		spec := web.PodSpec
		if err := l.StopPod(ctx, web); err != nil {
			t.Fatal(err)
		}
		again, err := l.StartPod(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.Hello(ctx, api2.At(HTTPPort)); err != nil {
			t.Error(err)
		}
	})
}

func testPrograms(ctx context.Context, t *testing.T, from, to *Pod) {
	tests := []struct {
		name string
		req  labapp.Request
		want func(labapp.Reply) bool
	}{
		{"echo", labapp.Request{Do: labapp.DoEcho, Address: to.At(labapp.EchoPort).String(), Text: "hello"},
			func(r labapp.Reply) bool { return r.Text == "hello" }},
		{"server speaks first", labapp.Request{Do: labapp.DoBanner, Address: to.At(labapp.BannerPort).String()},
			func(r labapp.Reply) bool { return r.Text == "220 books/api-2 ready" }},
		{"answer after the client's end", labapp.Request{Do: labapp.DoUpload, Address: to.At(labapp.SumPort).String(), Bytes: 1 << 20},
			func(r labapp.Reply) bool { return *r.Sent == *r.Got && r.Got.Bytes == 1<<20 }},
		{"fetch", labapp.Request{Do: labapp.DoFetch, Address: to.At(labapp.SourcePort).String(), Bytes: 3 << 20},
			func(r labapp.Reply) bool { return *r.Sent == *r.Got && r.Got.Bytes == 3<<20 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := from.Do(ctx, tt.req)
			if err != nil || r.Error != "" || !tt.want(r) {
				t.Errorf("reply = %+v, %v", r, err)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		r, err := from.Do(ctx, labapp.Request{Do: labapp.DoEcho, Address: to.At(9).String()})
		if err != nil || r.Ended != labapp.EndedReset {
			t.Errorf("reply = %+v, %v, want ended %q", r, err, labapp.EndedReset)
		}
	})
	t.Run("a watched connection ends with its asker", func(t *testing.T) {
		s, err := from.Begin(ctx, labapp.Request{Do: labapp.DoWatch, Address: to.At(labapp.TickerPort).String()})
		if err != nil {
			t.Fatal(err)
		}
		for want := 1; want <= 3; want++ {
			if r, err := s.Next(ctx); err != nil || r.Ticks != want {
				t.Fatalf("tick %d = %+v, %v", want, r, err)
			}
		}
		s.Close()
	})
	t.Run("an endless upload ends when told", func(t *testing.T) {
		s, err := from.Begin(ctx, labapp.Request{Do: labapp.DoUpload, Address: to.At(labapp.SumPort).String(), Rate: 10 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if r, err := s.Next(ctx); err != nil || !r.Done || r.Got == nil || *r.Got != *r.Sent {
			t.Errorf("reply = %+v, %v, want equal sums", r, err)
		}
	})
}

func testWire(ctx context.Context, t *testing.T, l *Lab, from, to *Pod) {
	marker := rand.Text()
	c, err := l.StartCapture(ctx, from.Node, []byte(marker))
	if err != nil {
		t.Fatal(err)
	}
	r, err := from.Do(ctx, labapp.Request{Do: labapp.DoEcho, Address: to.At(labapp.EchoPort).String(), Text: marker})
	seen, stopErr := c.Stop()
	if err := errors.Join(err, stopErr); err != nil || r.Error != "" {
		t.Fatal(err, r.Error)
	}
	if seen.Hits != 2 || seen.First.Dst != to.At(labapp.EchoPort) {
		t.Errorf("capture = %+v, want the marker there and back", seen)
	}
}

func testSabotage(ctx context.Context, t *testing.T, from, to *Pod) {
	upload := labapp.Request{Do: labapp.DoUpload, Address: to.At(labapp.SumPort).String(), Bytes: 100, Timeout: 300 * time.Millisecond}
	echo := labapp.Request{Do: labapp.DoEcho, Address: to.At(labapp.EchoPort).String(), Text: "x", Timeout: 300 * time.Millisecond}
	tests := []struct {
		name string
		req  labapp.Request
		do   func() error
		at   *Pod
	}{
		{"dropped FIN", upload, func() error { return from.DropFIN(labapp.SumPort) }, from},
		{"refused port", echo, func() error { return to.Refuse(labapp.EchoPort) }, to},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			if r, err := from.Do(ctx, tt.req); err != nil || r.Ended != labapp.EndedTimeout {
				t.Errorf("sabotaged: %+v, %v, want a timeout", r, err)
			}
			if err := tt.at.Repair(); err != nil {
				t.Fatal(err)
			}
			if r, err := from.Do(ctx, tt.req); err != nil || r.Error != "" {
				t.Errorf("repaired: %+v, %v", r, err)
			}
		})
	}
}

// After a crash nobody has called Close: the state file and the marks on the
// processes are all there is.
func TestCleanAfterCrash(t *testing.T) {
	mustBeRoot(t)
	dir := t.TempDir()
	state, err := newStateFile(dir, "ltcrash")
	if err != nil {
		t.Fatal(err)
	}
	ns := Namespace{"ltcrash-pod"}
	if err := ns.create(); err != nil {
		t.Fatal(err)
	}
	ours, foreign, marked := mustSleep(t, nil), mustSleep(t, nil), mustSleep(t, []string{labEnv + "=" + dir})
	record, err := proc.Of(ours.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// The number of the foreign process stands in the file, with the start time
	// of one that had the number before.
	reused := ProcessRecord{Name: "reused", PID: foreign.Process.Pid, StartTime: record.StartTime - 1}
	err = state.update(func(s *State) {
		s.Namespaces = []string{ns.Name}
		s.Processes = []ProcessRecord{record, reused}
	})
	if err != nil {
		t.Fatal(err)
	}

	removed, err := Clean(t.Context(), "ltcrash", dir)
	if want := (Removed{Processes: 2, Namespaces: 1, Dir: true}); err != nil || removed != want {
		t.Fatalf("Clean = %+v, %v, want %+v", removed, err, want)
	}
	for _, cmd := range []*exec.Cmd{ours, marked} {
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("process of the lab: %v, want killed", err)
		}
	}
	if !reused.Alive() && recordAlive(foreign.Process.Pid) {
		foreign.Process.Kill()
	} else {
		t.Error("the process that only has an old number was ended")
	}
	foreign.Wait()
	if again, err := Clean(t.Context(), "ltcrash", dir); err != nil || again != (Removed{}) {
		t.Errorf("second Clean = %+v, %v, want nothing to do", again, err)
	}
}

func recordAlive(pid int) bool {
	r, err := proc.Of(pid)
	return err == nil && r.Alive()
}

// mustSleep starts a process that does nothing.
func mustSleep(t *testing.T, env []string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}
