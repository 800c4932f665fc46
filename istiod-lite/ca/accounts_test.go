package ca

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// fakeCluster answers from maps. The real one is in the tests of the assembly.
type fakeCluster struct {
	mu      sync.Mutex
	holders map[string]Holder // by token
	pods    map[string]Pod    // in memory, by namespace/name
	live    map[string]Pod    // in the API server
	down    bool              // nobody can be asked
	asked   int               // reviews
	looked  int               // live reads
	gate    chan struct{}     // reviews wait for it; nil: they do not
}

func (c *fakeCluster) Review(ctx context.Context, token string) (Holder, error) {
	c.mu.Lock()
	gate := c.gate
	c.asked++
	h, ok := c.holders[token]
	down := c.down
	c.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return Holder{}, errors.Join(ErrUndecided, ctx.Err())
		}
	}
	switch {
	case down:
		return Holder{}, fmt.Errorf("%w: down", ErrUndecided)
	case !ok:
		return Holder{}, errors.New("unknown token")
	}
	return h, nil
}

func (c *fakeCluster) PodNamed(_ context.Context, namespace, name string, fresh bool) (Pod, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := c.pods
	if fresh {
		c.looked++
		if c.down {
			return Pod{}, false, errors.New("down")
		}
		from = c.live
	}
	p, ok := from[namespace+"/"+name]
	return p, ok, nil
}

// set changes the cluster.
func (c *fakeCluster) set(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
}

// jwt is a token with claims, as far as they are read.
func jwt(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".sig"
}

// tokenOf is a token that looks right, of a name, for an hour.
func tokenOf(name string) string {
	return jwt(fmt.Sprintf(`{"sub":"system:serviceaccount:mesh:%s","aud":["istio-ca"],"exp":%d}`, name, time.Now().Add(time.Hour).Unix()))
}

// calling is the context of a call with a token.
func calling(ctx context.Context, token string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+token))
}

// ztunnelWorld has the proxy of node one, and an ordinary pod.
func ztunnelWorld() (*fakeCluster, *Accounts) {
	zt := Pod{Name: "zt-1", Namespace: "mesh", ServiceAccount: "ztunnel", Node: "one", Phase: "Running", UID: "u1"}
	web := Pod{Name: "web-1", Namespace: "shop", ServiceAccount: "web", Node: "one", Phase: "Running", UID: "u2"}
	c := &fakeCluster{
		holders: map[string]Holder{
			tokenOf("zt"):  {Namespace: "mesh", ServiceAccount: "ztunnel", PodName: "zt-1", PodUID: "u1"},
			tokenOf("web"): {Namespace: "shop", ServiceAccount: "web", PodName: "web-1", PodUID: "u2"},
		},
		pods: map[string]Pod{"mesh/zt-1": zt, "shop/web-1": web},
		live: map[string]Pod{"mesh/zt-1": zt, "shop/web-1": web},
	}
	return c, NewAccounts(AccountsConfig{TrustDomain: "td", NodeAccounts: []string{"mesh/ztunnel"}}, c)
}

func TestAccountsOfACluster(t *testing.T) {
	tests := []struct {
		name   string
		token  func() string
		change func(*fakeCluster)
		want   Caller
		err    string
	}{
		{name: "a node's proxy speaks for the node of its pod", token: func() string { return tokenOf("zt") },
			want: Caller{Node: "one", Identity: identity.ID{TrustDomain: "td", Namespace: "mesh", ServiceAccount: "ztunnel"}, Pod: "zt-1", Name: "mesh/zt-1 (ztunnel)"}},
		{name: "others speak for themselves", token: func() string { return tokenOf("web") },
			want: Caller{Pod: "web-1", Identity: identity.ID{TrustDomain: "td", Namespace: "shop", ServiceAccount: "web"}, Name: "shop/web-1 (web)"}},
		{name: "a pod that memory does not know yet", token: func() string { return tokenOf("zt") },
			change: func(c *fakeCluster) { delete(c.pods, "mesh/zt-1") },
			want:   Caller{Node: "one", Identity: identity.ID{TrustDomain: "td", Namespace: "mesh", ServiceAccount: "ztunnel"}, Pod: "zt-1", Name: "mesh/zt-1 (ztunnel)"}},
		{name: "a pod that is gone", token: func() string { return tokenOf("zt") },
			change: func(c *fakeCluster) { delete(c.pods, "mesh/zt-1"); delete(c.live, "mesh/zt-1") }, err: "there is no pod mesh/zt-1"},
		{name: "a later pod of the name", token: func() string { return tokenOf("zt") },
			change: func(c *fakeCluster) {
				p := c.pods["mesh/zt-1"]
				p.UID = "u9"
				c.pods["mesh/zt-1"], c.live["mesh/zt-1"] = p, p
			}, err: "an earlier pod"},
		{name: "a pod of another account", token: func() string { return tokenOf("zt") },
			change: func(c *fakeCluster) {
				p := c.pods["mesh/zt-1"]
				p.ServiceAccount = "web"
				c.pods["mesh/zt-1"], c.live["mesh/zt-1"] = p, p
			}, err: "not of service account ztunnel"},
		{name: "a proxy that runs nowhere", token: func() string { return tokenOf("zt") },
			change: func(c *fakeCluster) { p := c.pods["mesh/zt-1"]; p.Node = ""; c.pods["mesh/zt-1"] = p }, err: "runs on no node"},
		{name: "a token of no pod", token: func() string { return tokenOf("zt") },
			change: func(c *fakeCluster) { c.holders[tokenOf("zt")] = Holder{Namespace: "mesh", ServiceAccount: "ztunnel"} }, err: "not bound to a pod"},
		{name: "a token that nobody knows", token: func() string { return tokenOf("other") }, err: "unknown token"},
		{name: "no JWT: nobody is asked", token: func() string { return "abc" }, change: func(c *fakeCluster) { c.down = true }, err: "not the JWT"},
		{name: "another audience: nobody is asked", token: func() string {
			return jwt(`{"sub":"system:serviceaccount:a:b","aud":"other","exp":99999999999}`)
		}, change: func(c *fakeCluster) { c.down = true }, err: "want istio-ca"},
		{name: "a person", token: func() string { return jwt(`{"sub":"me","aud":"istio-ca","exp":99999999999}`) }, err: "not of a service account"},
		{name: "over", token: func() string {
			return jwt(`{"sub":"system:serviceaccount:a:b","aud":"istio-ca","exp":1000}`)
		}, err: "has expired"},
		{name: "longer than any", token: func() string { return strings.Repeat("x", maxTokenBytes+1) }, err: "want at most"},
		{name: "nobody can be asked", token: func() string { return tokenOf("zt") }, change: func(c *fakeCluster) { c.down = true }, err: "cannot tell who calls"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, a := ztunnelWorld()
			if tt.change != nil {
				tt.change(c)
			}
			got, err := a.Authenticate(calling(t.Context(), tt.token()))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, %v, want an error with %q", got, err, tt.err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestAnswersAreRememberedBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, a := ztunnelWorld()
		token := tokenOf("zt")
		call := func() error { _, err := a.Authenticate(calling(t.Context(), token)); return err }
		want := func(why string, asked int, wantErr bool) {
			t.Helper()
			if err := call(); (err != nil) != wantErr || c.asked != asked {
				t.Errorf("%s: %v, asked %d times, want %d and an error: %v", why, err, c.asked, asked, wantErr)
			}
		}
		want("the first time it is asked", 1, false)
		want("then it is known", 1, false)
		time.Sleep(31 * time.Second)
		want("later it is asked again", 2, false)

		c.set(func() { c.down = true })
		want("known still", 2, false)
		time.Sleep(31 * time.Second)
		want("nobody can be asked: what was said counts", 3, false)
		want("and nobody is asked again at once", 3, false)
		time.Sleep(3 * time.Second)
		want("but soon", 4, false)
		time.Sleep(10 * time.Minute)
		want("not for ever", 5, true)

		c.set(func() { c.down = false; delete(c.holders, token) })
		want("back, and the token is taken back", 6, true)
		want("which is known", 6, true)
		time.Sleep(6 * time.Second)
		want("for a short while", 7, true)
	})
}

// One that is asked for is asked for once, also when the first caller goes away.
func TestATokenIsAskedForOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, a := ztunnelWorld()
		c.gate = make(chan struct{})
		token := tokenOf("zt")
		first, leave := context.WithCancel(t.Context())
		results := make(chan error, 10)
		go func() { _, err := a.Authenticate(calling(first, token)); results <- err }()
		synctest.Wait()
		for range 9 {
			go func() { _, err := a.Authenticate(calling(t.Context(), token)); results <- err }()
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		close(c.gate)
		for range 10 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if c.asked != 1 {
			t.Errorf("asked %d times, want once", c.asked)
		}
	})
}

func TestAnswersAreBounded(t *testing.T) {
	c := &fakeCluster{holders: map[string]Holder{}}
	a := NewAccounts(AccountsConfig{TrustDomain: "td", Tokens: 3}, c)
	for i := range 10 {
		a.Authenticate(calling(t.Context(), tokenOf(fmt.Sprint(i))))
	}
	if n := len(a.answers.known); n != 3 || a.answers.oldest.Len() != 3 {
		t.Errorf("%d answers are kept, want 3", n)
	}
	c.asked = 0
	a.Authenticate(calling(t.Context(), tokenOf("9")))
	a.Authenticate(calling(t.Context(), tokenOf("0")))
	if c.asked != 1 {
		t.Errorf("asked %d times, want once: the newest is kept, the oldest is not", c.asked)
	}
}

// A stranger with ever new tokens is not asked about for ever; others are, and what
// is known counts.
func TestAStrangerCannotMakeUsAskWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, a := ztunnelWorld()
		from := func(ip string) context.Context {
			return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}})
		}
		for i := range 1000 {
			a.Authenticate(calling(from("10.0.0.66"), tokenOf(fmt.Sprint(i))))
		}
		if c.asked != questionsAtOnce {
			t.Errorf("asked %d times about one stranger's tokens, want %d", c.asked, questionsAtOnce)
		}
		if _, err := a.Authenticate(calling(from("10.0.0.1"), tokenOf("zt"))); err != nil {
			t.Errorf("another address: %v", err)
		}
		if _, err := a.Authenticate(calling(from("10.0.0.66"), tokenOf("zt"))); err != nil {
			t.Errorf("a known token from the stranger's address: %v", err)
		}
		time.Sleep(time.Second)
		before := c.asked
		for i := range 1000 {
			a.Authenticate(calling(from("10.0.0.66"), tokenOf(fmt.Sprint("x", i))))
		}
		if n := c.asked - before; n != questionsPerSecond {
			t.Errorf("asked %d times a second later, want %d", n, questionsPerSecond)
		}
		for i := range maxSources + 10 {
			a.Authenticate(calling(from(netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}).String()), tokenOf(fmt.Sprint("z", i))))
		}
		if n := len(a.answers.from.known); n != maxSources {
			t.Errorf("%d addresses are remembered, want %d", n, maxSources)
		}
		time.Sleep(time.Minute)
		before = c.asked
		a.Authenticate(calling(from("12.0.0.1"), tokenOf("new")))
		if c.asked != before+1 {
			t.Error("addresses that have long been silent keep a new one out")
		}
	})
}

// Who asks with the token of a pod that is gone does not make us read for each try.
func TestLiveReadsOfPodsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, a := ztunnelWorld()
		clear(c.pods)
		clear(c.live)
		token := tokenOf("zt")
		for range 50 {
			a.Authenticate(calling(t.Context(), token))
		}
		if c.looked != 1 {
			t.Errorf("%d live reads at one moment, want 1", c.looked)
		}
		time.Sleep(lookEvery)
		a.Authenticate(calling(t.Context(), token))
		if c.looked != 2 {
			t.Errorf("%d live reads a second later, want 2", c.looked)
		}
	})
}

// Whatever a stranger sends as a token: no panic, and what is let through to the
// API server is short, for us and not over.
func FuzzToken(f *testing.F) {
	for _, token := range []string{
		jwt(`{"sub":"system:serviceaccount:a:b","aud":"istio-ca","exp":99999999999}`),
		jwt(`{"sub":"system:serviceaccount:a:b","aud":["x","istio-ca"],"exp":1e9}`), "a.b.c", "..", jwt(`{"exp":-1}`), jwt(`[]`),
	} {
		f.Add(token)
	}
	now := time.Unix(1_800_000_000, 0)
	f.Fuzz(func(t *testing.T, token string) {
		ends, err := readToken(token, now)
		if err == nil && (len(token) > maxTokenBytes || !ends.After(now) || ends.Year() > 40_000 || strings.Count(token, ".") != 2) {
			t.Errorf("%q passes, until %v", token, ends)
		}
	})
}
