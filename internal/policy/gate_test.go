package policy_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/internal/policy"
)

var pod = policy.Subject{Name: "web-1", Namespace: "shop", ServiceAccount: "web"}

// state is a Source whose answer a test sets.
type state struct {
	current atomic.Pointer[policy.Applicable]
}

func newState(ap policy.Applicable) *state {
	s := &state{}
	s.set(ap)
	return s
}

func (s *state) set(ap policy.Applicable)                         { s.current.Store(&ap) }
func (s *state) PoliciesFor(policy.Subject) policy.Applicable     { return *s.current.Load() }
func open() policy.Applicable                                     { return policy.Applicable{Known: true} }
func missing(ap policy.Applicable, n ...string) policy.Applicable { ap.Missing = n; return ap }

func mustAdmit(t *testing.T, g *policy.Gate, r policy.Request) *policy.Permit {
	t.Helper()
	p, err := g.Admit(t.Context(), pod, r)
	if err != nil {
		t.Fatalf("Admit: %v", err)
	}
	t.Cleanup(p.Release)
	return p
}

func isCut(p *policy.Permit) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

func TestAdmitNamesWhoRefuses(t *testing.T) {
	g := policy.NewGate(newState(mustCompile(t, deny("no-web", allOf()))), policy.GateConfig{})
	_, err := g.Admit(t.Context(), pod, request(web))
	var denied *policy.DeniedError
	if !errors.As(err, &denied) || denied.Verdict.Policy != "shop/no-web" || denied.Verdict.Rule != 0 {
		t.Errorf("Admit = %v, want a DeniedError by shop/no-web, rule 0", err)
	}
	if g.Len() != 0 {
		t.Errorf("%d permits are held after a refusal", g.Len())
	}
}

// What changes, and whether the live connection of web to port 8080 is cut.
func TestPolicyWatcherLifecycle(t *testing.T) {
	any := allOf()
	onlyWeb := allOf(oneOf(&match{ServiceAccounts: nil, Namespaces: nil, DestinationPorts: []uint32{8080}}))
	other := allOf(oneOf(&match{DestinationPorts: []uint32{9}}))
	none := policy.Applicable{Known: true}
	tests := []struct {
		name          string
		before, after policy.Applicable
		wantCut       string // name of the policy in the cause; "-": not cut
	}{
		{"add DENY kills", none, mustCompile(t, deny("d", any)), "explicitly denied by: shop/d"},
		{"unrelated policy no effect: DENY of another port", none, mustCompile(t, deny("d", other)), "-"},
		{"removing ALLOW opens", mustCompile(t, allow("a", onlyWeb)), none, "-"},
		{"replacing ALLOW by one that misses kills", mustCompile(t, allow("a", onlyWeb)), mustCompile(t, allow("a", other)), "allow policies exist, but none allowed: shop/a"},
		{"unrelated policy no effect: an ALLOW that misses beside one that matches", mustCompile(t, allow("a", onlyWeb)), mustCompile(t, allow("a", onlyWeb), allow("b", other)), "-"},
		{"unrelated policy no effect: a DENY on trial", none, mustCompile(t, dry(deny("d", any))), "-"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := newState(tt.before)
			g := policy.NewGate(src, policy.GateConfig{})
			p := mustAdmit(t, g, request(web))
			ctx, cancel := watched(t, p)
			defer cancel()
			src.set(tt.after)
			g.Changed()
			if tt.wantCut == "-" {
				if isCut(p) || ctx.Err() != nil {
					t.Errorf("the connection was cut: %v", p.Cause())
				}
				return
			}
			var revoked *policy.RevokedError
			if !isCut(p) || !errors.As(context.Cause(ctx), &revoked) || !errors.Is(p.Cause(), revoked) {
				t.Fatalf("cut = %v, cause of the context = %v, want a RevokedError", isCut(p), context.Cause(ctx))
			}
			if want := "connection no longer allowed: " + tt.wantCut; revoked.Error() != want {
				t.Errorf("cause = %q, want %q", revoked, want)
			}
		})
	}
}

// watched is a context that ends when p is taken back.
func watched(t *testing.T, p *policy.Permit) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(t.Context())
	p.Watch(cancel)
	return ctx, func() { cancel(nil) }
}

// "removing ALLOW opens": whom a list of others refused gets in once the list has
// gone.
func TestPolicyWatcherRemovingAllowOpens(t *testing.T) {
	src := newState(mustCompile(t, allow("a", allOf(oneOf(&match{DestinationPorts: []uint32{9}})))))
	g := policy.NewGate(src, policy.GateConfig{})
	if p, err := g.Admit(t.Context(), pod, request(web)); err == nil {
		p.Release()
		t.Fatal("an allow list of others let web in")
	}
	src.set(open())
	g.Changed()
	if p := mustAdmit(t, g, request(web)); isCut(p) {
		t.Errorf("admitted and cut at once: %v", p.Cause())
	}
}

// Its end takes a connection out of the list: nothing cuts it afterwards, and its
// context ends without a cause of the gate's.
func TestConnectionGuardReleaseOnEnd(t *testing.T) {
	src := newState(open())
	g := policy.NewGate(src, policy.GateConfig{})
	p := mustAdmit(t, g, request(web))
	ctx, cancel := watched(t, p)
	defer cancel()
	p.Release()
	if g.Len() != 0 {
		t.Errorf("Len = %d after the release, want 0", g.Len())
	}
	src.set(mustCompile(t, deny("d", allOf())))
	g.Changed()
	if n := g.Revoke(func(policy.Subject, policy.Request) bool { return true }, errors.New("all must go")); n != 0 {
		t.Errorf("Revoke found %d connections, want none", n)
	}
	if isCut(p) || ctx.Err() != nil {
		t.Errorf("a connection that has ended was cut: %v", context.Cause(ctx))
	}
}

// The connection that is no longer allowed is cut, its neighbour is not.
func TestConnectionGuardCloseOnPolicyChange(t *testing.T) {
	src := newState(open())
	g := policy.NewGate(src, policy.GateConfig{})
	other := request(web)
	other.Destination = netip.AddrPortFrom(other.Destination.Addr(), 9)
	cut, spared := mustAdmit(t, g, request(web)), mustAdmit(t, g, other)
	src.set(mustCompile(t, deny("d", allOf(oneOf(&match{DestinationPorts: []uint32{8080}})))))
	g.Changed()
	if !isCut(cut) || isCut(spared) {
		t.Errorf("cut: to port 8080 %v, to port 9 %v; want only the first", isCut(cut), isCut(spared))
	}
	if got := g.Len(); got != 2 {
		t.Errorf("Len = %d, want 2: whoever holds a permit gives it back", got)
	}
	cut.Release()
	spared.Release()
	if got := g.Len(); got != 0 {
		t.Errorf("Len = %d after both were released, want 0", got)
	}
}

func TestChangedCutsPlaintextWhenStrictArrives(t *testing.T) {
	strict := allOf(oneOf(&match{NotPrincipals: presenceList()}))
	src := newState(open())
	g := policy.NewGate(src, policy.GateConfig{})
	plain, proven := mustAdmit(t, g, request(nobody)), mustAdmit(t, g, request(web))
	src.set(mustCompile(t, deny("strict", strict)))
	g.Changed()
	if !isCut(plain) || isCut(proven) {
		t.Errorf("cut: plaintext %v, with identity %v; want only plaintext", isCut(plain), isCut(proven))
	}
}

// Two connections of the same addresses are two.
func TestConnectionGuardSameTupleTwiceCounted(t *testing.T) {
	src := newState(open())
	g := policy.NewGate(src, policy.GateConfig{})
	a, b := mustAdmit(t, g, request(web)), mustAdmit(t, g, request(web))
	if g.Len() != 2 {
		t.Errorf("Len = %d, want 2", g.Len())
	}
	a.Release()
	a.Release()
	if g.Len() != 1 {
		t.Errorf("Len = %d after one of two was released twice, want 1", g.Len())
	}
	src.set(mustCompile(t, deny("d", allOf())))
	g.Changed()
	if !isCut(b) || isCut(a) {
		t.Errorf("cut: live %v, released %v; want only the live one", isCut(b), isCut(a))
	}
	b.Release()
	if g.Len() != 0 {
		t.Errorf("Len = %d after all were released, want 0", g.Len())
	}
}

// A policy that is named but has not arrived: up to a second.
func TestMissingPolicyNewConnection(t *testing.T) {
	tests := []struct {
		name      string
		then      func(t *testing.T) policy.Applicable
		after     time.Duration // when it changes; 0: never
		wantAfter time.Duration
		wantErr   string
		counted   int32
	}{
		{name: "it never comes: refused and counted", wantAfter: time.Second, wantErr: "policy that applies is missing: shop/m", counted: 1},
		{name: "it comes and allows", after: 300 * time.Millisecond, wantAfter: 300 * time.Millisecond,
			then: func(t *testing.T) policy.Applicable { return mustCompile(t, allow("m", allOf())) }},
		{name: "it comes and denies", after: 300 * time.Millisecond, wantAfter: 300 * time.Millisecond, wantErr: "explicitly denied by: shop/m",
			then: func(t *testing.T) policy.Applicable { return mustCompile(t, deny("m", allOf())) }},
		{name: "it is named no more", after: 300 * time.Millisecond, wantAfter: 300 * time.Millisecond,
			then: func(*testing.T) policy.Applicable { return open() }},
		{name: "another change does not start the second anew", after: 700 * time.Millisecond, wantAfter: time.Second, wantErr: "policy that applies is missing: shop/n", counted: 1,
			then: func(*testing.T) policy.Applicable { return missing(open(), "shop/n") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := newState(missing(open(), "shop/m"))
				var counted atomic.Int32
				g := policy.NewGate(src, policy.GateConfig{Trace: policy.GateTrace{
					MissingRefused: func(policy.Subject, policy.Verdict) { counted.Add(1) },
				}})
				if tt.after != 0 {
					time.AfterFunc(tt.after, func() { src.set(tt.then(t)); g.Changed() })
				}
				start := time.Now()
				p, err := g.Admit(t.Context(), pod, request(web))
				if took := time.Since(start); took != tt.wantAfter {
					t.Errorf("Admit took %v, want %v", took, tt.wantAfter)
				}
				if got := fmt.Sprint(err); (tt.wantErr == "") != (err == nil) || (err != nil && got != tt.wantErr) {
					t.Errorf("Admit: %v, want %q", err, tt.wantErr)
				}
				if counted.Load() != tt.counted {
					t.Errorf("counted %d refusals for a missing policy, want %d", counted.Load(), tt.counted)
				}
				if err == nil {
					p.Release()
				}
				synctest.Wait()
			})
		})
	}
}

func TestMissingPolicyLiveConnection(t *testing.T) {
	tests := []struct {
		name  string
		at    map[time.Duration]policy.Applicable // what applies from when on
		cutAt time.Duration                       // 0: never
	}{
		{"still absent after a second: ends", map[time.Duration]policy.Applicable{0: missing(open(), "shop/m")}, time.Second},
		{"arrives in time and allows: goes on", map[time.Duration]policy.Applicable{0: missing(open(), "shop/m"), 900 * time.Millisecond: mustCompile(t, allow("m", allOf()))}, 0},
		{"arrives in time and denies: ends then", map[time.Duration]policy.Applicable{0: missing(open(), "shop/m"), 900 * time.Millisecond: mustCompile(t, deny("m", allOf()))}, 900 * time.Millisecond},
		{"another one goes missing: that one has its own second", map[time.Duration]policy.Applicable{0: missing(open(), "shop/m"), 600 * time.Millisecond: missing(open(), "shop/n")}, 1600 * time.Millisecond},
		{"one more goes missing: the first still counts", map[time.Duration]policy.Applicable{0: missing(open(), "shop/m"), 600 * time.Millisecond: missing(open(), "shop/m", "shop/n")}, time.Second},
		{"a deny beside a missing one ends at once", map[time.Duration]policy.Applicable{0: missing(mustCompile(t, deny("d", allOf())), "shop/m")}, time.Nanosecond},
		{"the workload is not known any more: ends after a second", map[time.Duration]policy.Applicable{0: {}}, time.Second},
		{"the workload comes back: goes on", map[time.Duration]policy.Applicable{0: {}, 500 * time.Millisecond: open()}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := newState(open())
				g := policy.NewGate(src, policy.GateConfig{})
				p := mustAdmit(t, g, request(web))
				start := time.Now()
				for at, ap := range tt.at {
					time.AfterFunc(at, func() { src.set(ap); g.Changed() })
				}
				select {
				case <-p.Done():
				case <-time.After(10 * time.Second):
				}
				took := time.Since(start)
				switch {
				case tt.cutAt == 0 && isCut(p):
					t.Errorf("cut after %v: %v", took, p.Cause())
				case tt.cutAt != 0 && (!isCut(p) || took.Round(10*time.Millisecond) != tt.cutAt.Round(10*time.Millisecond)):
					t.Errorf("cut = %v after %v, want it after %v", isCut(p), took, tt.cutAt)
				}
			})
		})
	}
}

func TestAdmitObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := policy.NewGate(newState(policy.Applicable{}), policy.GateConfig{})
		why := errors.New("client went away")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
		if _, err := g.Admit(ctx, pod, request(web)); !errors.Is(err, why) {
			t.Errorf("Admit = %v, want %v", err, why)
		}
		if g.Len() != 0 {
			t.Errorf("%d permits are held", g.Len())
		}
	})
}

func TestRevokeFindsInboundOutboundAndWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("identity is gone")
		src := newState(open())
		g := policy.NewGate(src, policy.GateConfig{})
		in, out := mustAdmit(t, g, request(web)), g.AdmitOutbound(pod)
		defer out.Release()
		other := g.AdmitOutbound(policy.Subject{Name: "other"})
		defer other.Release()

		src.set(missing(open(), "shop/m"))
		waiting := make(chan error, 1)
		var group lifecycle.Group
		defer group.Wait()
		group.Go(t.Context(), "admit", func(ctx context.Context) {
			_, err := g.Admit(ctx, pod, request(nobody))
			waiting <- err
		})
		synctest.Wait()

		ofPod := func(s policy.Subject, _ policy.Request) bool { return s == pod }
		if n := g.Revoke(ofPod, why); n != 3 {
			t.Errorf("Revoke = %d, want 3", n)
		}
		if n := g.Revoke(ofPod, why); n != 0 {
			t.Errorf("the second Revoke = %d, want 0", n)
		}
		if err := <-waiting; !errors.Is(err, why) {
			t.Errorf("the waiting Admit = %v, want %v", err, why)
		}
		for name, p := range map[string]*policy.Permit{"inbound": in, "outbound": out} {
			ctx, cancel := watched(t, p)
			if !isCut(p) || !errors.Is(context.Cause(ctx), why) {
				t.Errorf("%s: cut = %v, cause = %v; want %v", name, isCut(p), context.Cause(ctx), why)
			}
			cancel()
		}
		if isCut(other) {
			t.Error("a connection of another pod was cut")
		}
	})
}

func TestOutboundIsNotAPolicyMatter(t *testing.T) {
	src := newState(open())
	g := policy.NewGate(src, policy.GateConfig{})
	p := g.AdmitOutbound(pod)
	defer p.Release()
	src.set(mustCompile(t, deny("d", allOf())))
	g.Changed()
	if isCut(p) {
		t.Errorf("an outbound connection was cut by policy: %v", p.Cause())
	}
}

// turning is a Source whose answer changes, and is told to the gate, just after
// it was given for the first time.
type turning struct {
	state
	turned atomic.Bool
	turn   func()
}

func (s *turning) PoliciesFor(p policy.Subject) policy.Applicable {
	before := s.state.PoliciesFor(p)
	if !s.turned.Swap(true) {
		s.turn()
	}
	return before
}

// A policy change between check and use still finds the connection.
func TestChangeBetweenCheckAndUse(t *testing.T) {
	tests := []struct {
		name  string
		after policy.Applicable
		want  string // the error, of Admit or later; "": none
	}{
		{"a deny came", mustCompile(t, deny("d", allOf())), "explicitly denied by: shop/d"},
		{"a policy went missing", missing(open(), "shop/m"), "connection no longer allowed: policy that applies is missing: shop/m"},
		{"something else came", mustCompile(t, deny("d", allOf(oneOf(&match{DestinationPorts: []uint32{9}})))), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &turning{}
				src.set(open())
				g := policy.NewGate(src, policy.GateConfig{})
				src.turn = func() { src.set(tt.after); g.Changed() }
				p, err := g.Admit(t.Context(), pod, request(web))
				if err == nil {
					defer p.Release()
					select {
					case <-p.Done():
						err = p.Cause()
					case <-time.After(2 * time.Second):
					}
				}
				if (err == nil) != (tt.want == "") || (err != nil && err.Error() != tt.want) {
					t.Errorf("error = %v, want %q", err, tt.want)
				}
			})
		})
	}
}

// While connections come and go, policies flip. When everything has settled
// under "deny", no permit may be alive that was not cut.
func TestChangeUnderLoad(t *testing.T) {
	closed := mustCompile(t, deny("d", allOf()))
	src := newState(open())
	g := policy.NewGate(src, policy.GateConfig{MissingWait: time.Millisecond})
	var clients, flipper lifecycle.Group
	var mu sync.Mutex
	var held []*policy.Permit
	for range 4 {
		clients.Go(t.Context(), "admit", func(ctx context.Context) {
			for i := 0; i < 500; {
				p, err := g.Admit(ctx, pod, request(web))
				if err != nil {
					continue // closed just now
				}
				if i++; i%3 == 0 {
					p.Release()
					continue
				}
				mu.Lock()
				held = append(held, p)
				mu.Unlock()
			}
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	flipper.Go(ctx, "flip", func(ctx context.Context) {
		for i := 0; ctx.Err() == nil; i++ {
			src.set([]policy.Applicable{open(), closed, open(), missing(open(), "shop/m")}[i%4])
			g.Changed()
		}
		src.set(closed)
		g.Changed()
	})
	clients.Wait()
	stop()
	flipper.Wait()
	for _, p := range held {
		if !isCut(p) {
			t.Fatal("a connection lives on under a policy that denies it")
		}
		p.Release()
	}
	if g.Len() != 0 {
		t.Errorf("%d permits are left", g.Len())
	}
}

// BenchmarkChanged measures one change of policy under 10,000 live connections
// of ten pods, none of which is cut.
func BenchmarkChanged(b *testing.B) {
	states := []policy.Applicable{
		mustCompile(b, deny("d", allOf(oneOf(&match{DestinationPorts: []uint32{9}})))),
		mustCompile(b, deny("d", allOf(oneOf(&match{DestinationPorts: []uint32{10}})))),
	}
	src := newState(states[0])
	g := policy.NewGate(src, policy.GateConfig{})
	for i := range 10_000 {
		p, err := g.Admit(b.Context(), policy.Subject{Name: fmt.Sprint(i % 10)}, request(web))
		if err != nil {
			b.Fatal(err)
		}
		defer p.Release()
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		src.set(states[i%2])
		g.Changed()
	}
}

// BenchmarkEvaluate measures one decision over five policies of three rules.
func BenchmarkEvaluate(b *testing.B) {
	w := allOf(oneOf(&match{Principals: presenceList(), DestinationPorts: []uint32{1, 2, 3}}))
	ap := mustCompile(b, deny("a", w, w, w), deny("b", w, w, w), allow("c", w, w, w), allow("d", w, w, w), allow("e", w, w, allOf()))
	r := request(web)
	b.ReportAllocs()
	for b.Loop() {
		if !policy.Evaluate(ap, r).Allowed {
			b.Fatal("denied")
		}
	}
}
