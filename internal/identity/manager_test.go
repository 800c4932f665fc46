package identity

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

var errAway = errors.New("the CA is away")

// fakeCA is a Fetcher that notes who was asked for and when. It signs for real.
type fakeCA struct {
	t  *testing.T
	ca *testCA
	// ttl and backdate shape what it signs.
	ttl, backdate time.Duration
	// answer may wait, and refuse; nil grants at once.
	answer func(ctx context.Context, id ID) error

	mu            sync.Mutex
	asked         []question
	running, most int
}

// question is one call of Fetch.
type question struct {
	id ID
	at time.Duration // since the start of the test
}

// managerTest is a Manager that runs, within a bubble of fake time.
type managerTest struct {
	*Manager
	t     *testing.T
	ca    *fakeCA
	start time.Time
	stop  func()
}

// newManagerTest starts a Manager. It is stopped at the end of the test.
func newManagerTest(t *testing.T, cfg ManagerConfig) *managerTest {
	t.Helper()
	f := &fakeCA{t: t, ca: newCA(t, "root"), ttl: 24 * time.Hour}
	m, err := NewManager(cfg, f)
	if err != nil {
		t.Fatal(err)
	}
	mt := &managerTest{Manager: m, t: t, ca: f, start: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	mt.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(mt.stop)
	return mt
}

func (f *fakeCA) Fetch(ctx context.Context, id ID) (*Certificate, error) {
	f.mu.Lock()
	f.asked = append(f.asked, question{id, time.Since(testEpoch)})
	f.running++
	f.most = max(f.most, f.running)
	answer := f.answer
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}()
	if answer != nil {
		if err := answer(ctx, id); err != nil {
			return nil, err
		}
	}
	return f.ca.certify(f.t, id, f.backdate, f.ttl), nil
}

// testEpoch is when a bubble of synctest begins.
var testEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// set changes how the CA answers from now on.
func (f *fakeCA) set(answer func(ctx context.Context, id ID) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// times returns when the CA was asked for id.
func (f *fakeCA) times(id ID) (at []time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, q := range f.asked {
		if q.id == id {
			at = append(at, q.at)
		}
	}
	return at
}

// order returns the service accounts in the order in which they were asked for.
func (f *fakeCA) order() (names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, q := range f.asked {
		names = append(names, q.id.ServiceAccount)
	}
	return names
}

// pass lets fake time go by until everything is at rest.
func (mt *managerTest) pass(d time.Duration) {
	sleep(mt.t, d)
	synctest.Wait()
}

// wantAsked checks how often the CA was asked for id so far.
func (mt *managerTest) wantAsked(why string, id ID, want int) {
	mt.t.Helper()
	if got := mt.ca.times(id); len(got) != want {
		mt.t.Errorf("%s: the CA was asked for %v %d times, at %v, want %d", why, id, len(got), got, want)
	}
}

// inBubble runs fn in fake time.
func inBubble(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, fn)
}

// sleep lets fake time go by.
func sleep(t *testing.T, d time.Duration) {
	if err := lifecycle.Sleep(t.Context(), d); err != nil {
		t.Error(err)
	}
}

func account(name string) ID { return ID{"td", "shop", name} }

func refuse(context.Context, ID) error { return errAway }

func TestManagerCachingStress(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(func(ctx context.Context, id ID) error {
			sleep(t, 10*time.Millisecond)
			return ctx.Err()
		})
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				for j := range 50 {
					id := account(fmt.Sprint((i + j) % 10))
					c, err := mt.Get(t.Context(), id)
					if err != nil || c.ID != id {
						t.Errorf("Get(%v) = %v, %v", id, c, err)
					}
					if c2, ok := mt.Peek(id); !ok || c2 != c {
						t.Errorf("Peek(%v) is another than Get", id)
					}
				}
			})
		}
		wg.Wait()
		for i := range 10 {
			mt.wantAsked("2000 Gets of 10 identities", account(fmt.Sprint(i)), 1)
		}
	})
}

func TestManagerRefreshAtHalfLife(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		defer mt.Retain(account("web"))()
		mt.pass(0)
		first, _ := mt.Peek(account("web"))
		mt.pass(12*time.Hour - time.Second)
		mt.wantAsked("before half life", account("web"), 1)
		mt.pass(time.Second)
		mt.wantAsked("at half life", account("web"), 2)
		if second, ok := mt.Peek(account("web")); !ok || second == first {
			t.Error("the renewed certificate is not the one in force")
		}
	})
}

func TestManagerRefreshOfBackdatedAndShortCertificates(t *testing.T) {
	for _, tt := range []struct {
		name          string
		ttl, backdate time.Duration
		want          []time.Duration
	}{
		{"backdated: half of the whole life", 10 * time.Minute, 2 * time.Minute, []time.Duration{0, 4 * time.Minute}},
		{"half life passed already: half of what is left", time.Minute, 2 * time.Minute, []time.Duration{0, 30 * time.Second}},
		{"shorter than can be kept up with: not in a loop", 600 * time.Millisecond, 0, []time.Duration{0, time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				mt := newManagerTest(t, ManagerConfig{})
				mt.ca.ttl, mt.ca.backdate = tt.ttl, tt.backdate
				defer mt.Retain(account("web"))()
				mt.pass(tt.want[1])
				got := mt.ca.times(account("web"))
				// Certificates count whole seconds.
				if len(got) != 2 || (got[1]-tt.want[1]).Abs() > time.Second {
					t.Errorf("asked at %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestManagerPriority(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{MaxInFlight: 1})
		for _, name := range []string{"old1", "old2"} {
			defer mt.Retain(account(name))()
			if _, err := mt.Get(t.Context(), account(name)); err != nil { // wanted once; later only renewed
				t.Fatal(err)
			}
		}
		free := make(chan struct{})
		mt.ca.set(func(ctx context.Context, id ID) error { <-free; return nil })
		defer mt.Retain(account("busy"))() // takes the one slot
		mt.pass(12 * time.Hour)            // now both old ones are due
		defer mt.Retain(account("prefetch1"))()
		mt.pass(time.Millisecond)
		defer mt.Retain(account("prefetch2"))()
		mt.pass(time.Millisecond)
		var wg sync.WaitGroup
		for _, name := range []string{"wanted", "prefetch2"} { // the second is upgraded
			wg.Go(func() {
				if _, err := mt.Get(t.Context(), account(name)); err != nil {
					t.Errorf("Get(%s): %v", name, err)
				}
			})
			mt.pass(time.Millisecond)
		}
		close(free)
		wg.Wait()
		mt.pass(0)
		// prefetch2 has been due for longer than wanted.
		want := []string{"old1", "old2", "busy", "prefetch2", "wanted", "prefetch1", "old1", "old2"}
		if got := mt.ca.order(); !slices.Equal(got, want) {
			t.Errorf("asked for %v, want %v", got, want)
		}
	})
}

func TestManagerWarmup(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		if _, ok := mt.Peek(account("web")); ok {
			t.Error("Peek finds what nobody asked for")
		}
		defer mt.Retain(account("web"))()
		mt.pass(0)
		c, ok := mt.Peek(account("web"))
		if !ok || c.ID != account("web") {
			t.Error("Retain does not fetch ahead of use")
		}
		if again, err := mt.Get(t.Context(), account("web")); err != nil || again != c {
			t.Errorf("Get = %v, want what was prefetched", err)
		}
		mt.wantAsked("prefetch and Get", account("web"), 1)
	})
}

func TestManagerDuplicateCoalescing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(func(context.Context, ID) error { sleep(t, time.Second); return nil })
		defer mt.Retain(account("web"))()
		defer mt.Retain(account("web"))()
		var wg sync.WaitGroup
		got := make([]*Certificate, 100)
		for i := range got {
			wg.Go(func() { got[i], _ = mt.Get(t.Context(), account("web")) })
		}
		wg.Wait()
		mt.wantAsked("100 Gets at a time", account("web"), 1)
		for _, c := range got {
			if c == nil || c != got[0] {
				t.Fatal("not all Gets have the same certificate")
			}
		}
	})
}

func TestManagerConcurrencyCap(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(func(context.Context, ID) error { sleep(t, time.Second); return nil })
		for i := range 50 {
			defer mt.Retain(account(fmt.Sprint(i)))()
		}
		mt.pass(6 * time.Second)
		if n := len(mt.ca.order()); mt.ca.most != 8 || n < 48 {
			t.Errorf("%d requests at a time, %d in 6 s, want 8 and at least 48", mt.ca.most, n)
		}
		mt.pass(time.Minute)
		if n := len(mt.ca.order()); n != 50 {
			t.Errorf("%d requests in all, want 50", n)
		}
	})
}

func TestManagerCleanup(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		if _, err := mt.Get(t.Context(), account("guest")); err != nil {
			t.Fatal(err)
		}
		mt.pass(11 * time.Hour)
		if _, ok := mt.Peek(account("guest")); !ok {
			t.Error("what a Get has fetched is gone before its half life")
		}
		mt.pass(2 * time.Hour)
		if len(mt.Dump()) != 0 {
			t.Errorf("what nobody retains is kept beyond half life: %+v", mt.Dump())
		}
		mt.wantAsked("nobody wants it", account("guest"), 1)

		mt.ca.set(refuse)
		for i := range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if _, err := mt.Get(ctx, account(fmt.Sprint("ghost", i))); err == nil {
				t.Error("a refused identity has a certificate")
			}
			cancel()
		}
		mt.pass(time.Minute)
		if n := len(mt.Dump()); n != 0 {
			t.Errorf("%d identities that were refused and that nobody wants are kept", n)
		}
	})
}

func TestManagerRunLeavesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(func(ctx context.Context, _ ID) error { <-ctx.Done(); return ctx.Err() })
		got := make(chan error)
		go func() {
			_, err := mt.Get(t.Context(), account("web"))
			got <- err
		}()
		mt.pass(time.Second)
		mt.stop() // the request is still open
		if err := <-got; !errors.Is(err, ErrStopped) {
			t.Errorf("Get at the end of Run: %v, want ErrStopped", err)
		}
		if _, err := mt.Get(t.Context(), account("cart")); !errors.Is(err, ErrStopped) {
			t.Errorf("Get after Run: %v, want ErrStopped", err)
		}
		if mt.ca.running != 0 {
			t.Errorf("%d requests are left", mt.ca.running)
		}
	})
}

func TestManagerForget(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		var seen []string
		mt.OnChange(func(id ID, c *Certificate) {
			if c != nil && c.ID != id {
				t.Errorf("change of %v has a certificate of %v", id, c.ID)
			}
			seen = append(seen, fmt.Sprintf("%s %v", id.ServiceAccount, c != nil))
		})
		one, two := mt.Retain(account("web")), mt.Retain(account("web"))
		mt.pass(0)
		one()
		one() // does not count twice
		mt.pass(0)
		if _, ok := mt.Peek(account("web")); !ok {
			t.Error("forgotten while one still retains it")
		}
		two()
		if _, ok := mt.Peek(account("web")); ok {
			t.Error("kept after the last release")
		}
		mt.pass(48 * time.Hour)
		mt.wantAsked("no renewal after the last release", account("web"), 1)
		mt.Retain(account("web"))
		mt.pass(0)
		mt.wantAsked("retained again", account("web"), 2)
		if want := []string{"web true", "web false", "web true"}; !slices.Equal(seen, want) {
			t.Errorf("changes %v, want %v", seen, want)
		}
	})
}

func TestManagerForgetWhileARequestRuns(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.OnChange(func(id ID, c *Certificate) { t.Errorf("change %v %v of an identity that was forgotten", id, c) })
		cancelled := false
		mt.ca.set(func(ctx context.Context, _ ID) error {
			<-ctx.Done()
			cancelled = true
			return nil // the answer came at the same moment
		})
		release := mt.Retain(account("web"))
		mt.pass(time.Millisecond)
		release()
		mt.pass(0)
		if !cancelled || len(mt.Dump()) != 0 {
			t.Errorf("request cancelled %v, still known %+v", cancelled, mt.Dump())
		}
	})
}

func TestManagerReleaseWaitsForThoseWhoWait(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(func(context.Context, ID) error { sleep(t, time.Second); return nil })
		release := mt.Retain(account("web"))
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { _, err = mt.Get(t.Context(), account("web")) })
		mt.pass(time.Millisecond)
		release()
		wg.Wait()
		if err != nil || len(mt.Dump()) != 0 {
			t.Errorf("Get %v, then %d entries, want its certificate and none", err, len(mt.Dump()))
		}
	})
}

func TestManagerBackoff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(refuse)
		defer mt.Retain(account("web"))()
		mt.pass(time.Hour)
		at := mt.ca.times(account("web"))
		want := 500 * time.Millisecond
		for i := 1; i < len(at); i++ {
			gap := at[i] - at[i-1]
			if low, high := want*8/10, min(want*12/10, 150*time.Second); gap < low || gap > high {
				t.Errorf("wait %d is %v, want %v to %v", i, gap, low, high)
			}
			want = min(2*want, 150*time.Second)
		}
		if len(at) < 25 || len(at) > 45 {
			t.Errorf("asked %d times in an hour", len(at))
		}
		s := mt.Dump()[0]
		if s.State != Unavailable || !errors.Is(s.Err, errAway) || !s.Next.After(time.Now()) {
			t.Errorf("status = %+v", s)
		}
	})
}

func TestManagerBackoffIsPerIdentity(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(func(_ context.Context, id ID) error {
			if id == account("bad") {
				return errAway
			}
			return nil
		})
		defer mt.Retain(account("bad"))()
		mt.pass(10 * time.Minute)
		if _, err := mt.Get(t.Context(), account("good")); err != nil || time.Since(mt.start) != 10*time.Minute {
			t.Errorf("Get of another identity: %v after %v, want at once", err, time.Since(mt.start)-10*time.Minute)
		}
	})
}

func TestManagerBackoffReset(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(refuse)
		release := mt.Retain(account("web"))
		mt.pass(10 * time.Minute) // the back-off is long now
		mt.ca.set(nil)
		mt.pass(150 * time.Second)
		if s := mt.Dump()[0]; s.State != Available || s.Err != nil {
			t.Fatalf("after the CA is back: %+v", s)
		}
		mt.ca.set(refuse)
		success := time.Since(mt.start)
		mt.pass(12*time.Hour + 2*time.Second)
		after := slices.DeleteFunc(mt.ca.times(account("web")), func(at time.Duration) bool { return at <= success })
		if len(after) < 3 || after[1]-after[0] > 600*time.Millisecond {
			t.Errorf("success does not reset the back-off: asked at %v", after)
		}
		// Forgetting drops it as well.
		mt.pass(time.Hour)
		release()
		before := len(mt.ca.times(account("web")))
		defer mt.Retain(account("web"))()
		mt.pass(600 * time.Millisecond)
		mt.wantAsked("forgotten and wanted again", account("web"), before+2)
	})
}

func TestManagerFirstRetryForAWaiterIsQuick(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		n := 0
		mt.ca.set(func(context.Context, ID) error {
			if n++; n == 1 {
				return errors.New("no such pod on your node")
			}
			return nil
		})
		if _, err := mt.Get(t.Context(), account("web")); err != nil || time.Since(mt.start) != 50*time.Millisecond {
			t.Errorf("Get: %v after %v, want a certificate after 50 ms", err, time.Since(mt.start))
		}
	})
}

func TestManagerAWaiterShortensTheBackoffOfAPrefetch(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(refuse)
		defer mt.Retain(account("web"))()
		mt.pass(10 * time.Minute)
		// The CA comes back during a wait of minutes. The first connection learns
		// soon that it has no certificate; those some seconds later have one.
		asked := len(mt.ca.times(account("web")))
		mt.ca.set(nil)
		late := time.Now()
		if _, err := mt.Get(t.Context(), account("web")); err != nil && !errors.Is(err, errAway) {
			t.Errorf("Get: %v, want the CA's answer", err)
		}
		mt.pass(5 * time.Second)
		if _, ok := mt.Peek(account("web")); !ok || time.Since(late) > 5*time.Second {
			t.Errorf("no certificate 5 s after the CA is back and a connection wants it; asked %d times more", len(mt.ca.times(account("web")))-asked)
		}
	})
}

func TestManagerGetGivesUpWithTheAnswerOfTheCA(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(refuse)
		_, err := mt.Get(t.Context(), account("web"))
		if took := time.Since(mt.start); !errors.Is(err, errAway) || took < 2*time.Second || took > 4*time.Second {
			t.Errorf("Get: %v after %v, want the CA's answer after some 3 s", err, took)
		}
		mt.wantAsked("tries of one Get", account("web"), 4)
	})
}

func TestManagerGetEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		mt.ca.set(refuse)
		why := errors.New("client has gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(200*time.Millisecond, func() { cancel(why) })
		_, err := mt.Get(ctx, account("web"))
		if !errors.Is(err, why) || !errors.Is(err, errAway) || time.Since(mt.start) != 200*time.Millisecond {
			t.Errorf("Get: %v after %v, want both causes after 200 ms", err, time.Since(mt.start))
		}
		if _, err := mt.Get(t.Context(), ID{}); err == nil {
			t.Error("Get of nobody succeeds")
		}
	})
}

func TestManagerARequestThatHangsIsEnded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		n := 0
		mt.ca.set(func(ctx context.Context, _ ID) error {
			if n++; n == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		if _, err := mt.Get(t.Context(), account("web")); err != nil || time.Since(mt.start) != 10*time.Second+50*time.Millisecond {
			t.Errorf("Get: %v after %v, want a certificate after 10.05 s", err, time.Since(mt.start))
		}
	})
}

func TestManagerOldCertificateRetained(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		defer mt.Retain(account("web"))()
		mt.pass(0)
		old, _ := mt.Peek(account("web"))
		mt.ca.set(refuse)
		mt.pass(24*time.Hour - time.Second)
		if c, err := mt.Get(t.Context(), account("web")); err != nil || c != old {
			t.Errorf("the CA is away: Get = %v, want the old certificate", err)
		}
		if s := mt.Dump()[0]; s.State != Available || !errors.Is(s.Err, errAway) || s.Certificate != old {
			t.Errorf("status = %v %v, want Available, with the CA's answer", s.State, s.Err)
		}
		mt.pass(2 * time.Second)
		if _, ok := mt.Peek(account("web")); ok {
			t.Error("the expired certificate is served")
		}
		if s := mt.Dump()[0]; s.State != Unavailable {
			t.Errorf("state = %v, want Unavailable", s.State)
		}
		mt.ca.set(nil)
		mt.pass(150 * time.Second)
		if c, ok := mt.Peek(account("web")); !ok || c == old {
			t.Error("no new certificate after the CA is back")
		}
	})
}

func TestManagerRefusesUselessAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(mt *managerTest) *Certificate
		want   string
	}{
		{"none", func(*managerTest) *Certificate { return nil }, "without a certificate"},
		{"of another identity", func(mt *managerTest) *Certificate {
			return mt.ca.ca.certify(mt.t, account("thief"), 0, time.Hour)
		}, "for spiffe://td/ns/shop/sa/thief"},
		{"expired", func(mt *managerTest) *Certificate {
			return mt.ca.ca.certify(mt.t, account("web"), time.Hour, -time.Minute)
		}, "not valid now"},
		{"not yet valid", func(mt *managerTest) *Certificate {
			return mt.ca.ca.certify(mt.t, account("web"), -time.Minute, time.Hour)
		}, "clocks"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				mt := newManagerTest(t, ManagerConfig{})
				mt.Manager.fetcher = fetchFunc(func() *Certificate { return tt.change(mt) })
				if c, err := mt.Get(t.Context(), account("web")); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Get = %v, %v, want an error with %q", c, err, tt.want)
				}
			})
		})
	}
}

// fetchFunc answers with what it returns.
type fetchFunc func() *Certificate

func (f fetchFunc) Fetch(context.Context, ID) (*Certificate, error) { return f(), nil }

func TestManagerRefreshNow(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		defer mt.Retain(account("web"))()
		defer mt.Retain(account("cart"))()
		mt.pass(time.Minute)
		mt.Refresh(func(id ID) bool { return id == account("web") })
		mt.pass(0)
		mt.wantAsked("refreshed", account("web"), 2)
		mt.wantAsked("not refreshed", account("cart"), 1)
	})
}

// The answer to a request that was under way may be from before the change.
func TestManagerRefreshDuringARequest(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{})
		free := make(chan struct{})
		mt.ca.set(func(ctx context.Context, id ID) error { <-free; return nil })
		defer mt.Retain(account("web"))()
		mt.pass(time.Second)
		mt.Refresh(func(ID) bool { return true })
		close(free)
		mt.pass(0)
		mt.wantAsked("refreshed while it was asked for", account("web"), 2)
		mt.pass(time.Minute)
		mt.wantAsked("once more is enough", account("web"), 2)
	})
}

// A long back-off does not keep an old root in force.
func TestManagerRefreshDuringABackoff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{RetryInitial: 10 * time.Minute, RetryMax: time.Hour})
		defer mt.Retain(account("web"))()
		mt.pass(time.Minute)
		mt.ca.set(refuse)
		mt.pass(12 * time.Hour) // the renewal fails
		mt.ca.set(nil)
		before := len(mt.ca.times(account("web")))
		mt.Refresh(func(ID) bool { return true })
		mt.pass(time.Second)
		mt.wantAsked("refreshed while it backs off", account("web"), before+1)
	})
}

func TestManagerConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]ManagerConfig{
		"negative cap": {MaxInFlight: -1}, "negative timeout": {FetchTimeout: -1}, "max below initial": {RetryInitial: time.Minute, RetryMax: time.Second},
	} {
		if _, err := NewManager(cfg, nil); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// Random use, with invariants: no listener sees a certificate after it was told
// that the identity is forgotten, except by a new one; nothing is left at the end.
func TestManagerUnderRandomUse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		mt := newManagerTest(t, ManagerConfig{MaxInFlight: 3})
		mt.ca.ttl = 2 * time.Minute
		mt.ca.set(func(ctx context.Context, _ ID) error {
			sleep(t, rand.N(100*time.Millisecond))
			if rand.N(4) == 0 {
				return errAway
			}
			return ctx.Err()
		})
		held := map[ID]bool{} // as the listener knows it
		mt.OnChange(func(id ID, c *Certificate) {
			if c == nil && !held[id] {
				t.Errorf("%v is forgotten twice", id)
			}
			held[id] = c != nil
		})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 50 {
					id := account(fmt.Sprint(rand.N(5)))
					release := mt.Retain(id)
					ctx, cancel := context.WithTimeout(t.Context(), rand.N(500*time.Millisecond))
					if c, err := mt.Get(ctx, id); err == nil && (c.ID != id || !c.ValidAt(time.Now())) {
						t.Errorf("Get(%v) = %v, valid %v", id, c.ID, c.ValidAt(time.Now()))
					}
					cancel()
					sleep(t, rand.N(20*time.Second))
					release()
				}
			})
		}
		wg.Wait()
		mt.pass(time.Minute)
		if n := len(mt.Dump()); n != 0 || mt.ca.most > 3 {
			t.Errorf("%d identities are left, %d requests at a time", n, mt.ca.most)
		}
		for id, has := range held {
			if has {
				t.Errorf("the listener was not told that %v is forgotten", id)
			}
		}
	})
}
