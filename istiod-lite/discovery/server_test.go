package discovery_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/istiod-lite/discovery"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

const (
	address       = model.AddressURL
	authorization = model.AuthorizationURL
)

func TestPoliciesAreSentBeforeWhatNamesThem(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push(pod("a", "n1", "10.0.0.1"), strict())
	c := m.connect()
	c.subscribe() // addresses first
	c.want("the policy", "Authorization: +istio-system/istio_converted_static_strict")
	c.want("then the workload", "Address: +Pod/ns/a")

	m.push(gone(strict()))
	c.want("the workload lets go", "Address: +Pod/ns/a")
	c.want("then the policy goes", "Authorization: -istio-system/istio_converted_static_strict")

	m.push(strict())
	c.want("again the policy", "Authorization: +istio-system/istio_converted_static_strict")
	c.want("then the workload", "Address: +Pod/ns/a")
}

// A client that never asks for policies gets addresses all the same.
func TestAddressesAloneAfterAGrace(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push(pod("a", "n1", "10.0.0.1"))
	c := m.connect()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address})
	c.want("the workload", "Address: +Pod/ns/a")
}

// A control plane that has just started knows nothing; that is not: nothing is
// there.
func TestNothingIsSentBeforeTheFirstPicture(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	c := m.connect()
	c.held[address]["Kubernetes//Pod/ns/a"] = "old"
	c.held[address]["Kubernetes//Pod/ns/b"] = "old"
	c.subscribe()
	c.wantIdle("no picture stands")
	m.push(pod("a", "n1", "10.0.0.1"))
	c.want("policies: none, but an answer", "Authorization:")
	c.want("what differs from what the client holds", "Address: +Pod/ns/a -Pod/ns/b")
}

func TestEmptyMeshIsAnswered(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push()
	c := m.connect()
	c.subscribe()
	c.want("policies", "Authorization:")
	c.want("addresses", "Address:")
	c.wantIdle("all is said")
}

func TestReconnectWithVersions(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push(pod("same", "n1", "10.0.0.1"), pod("changed", "n1", "10.0.0.2"), pod("gone", "n1", "10.0.0.3"), allow("p", "a"))
	first := m.connect()
	first.subscribe()
	first.wantState("first connection", m)
	first.cancel()
	m.push(pod("changed", "n1", "10.0.0.9"), gone(pod("gone", "", "")), pod("new", "n1", "10.0.0.4"))

	second := m.connect()
	second.held = first.held
	second.subscribe()
	second.want("policies: nothing differs, but an answer", "Authorization:")
	second.want("only what differs", "Address: +Pod/ns/changed +Pod/ns/new -Pod/ns/gone")
	second.wantState("the same picture", m)
	second.wantIdle("all is said")
}

func TestChangesInOneDebounceGoTogetherAndOnce(t *testing.T) {
	m := newMesh(t, discovery.Config{Debounce: 400 * time.Millisecond})
	m.push()
	c := m.connect()
	c.subscribe()
	c.next("policies")
	c.next("addresses")
	m.push(pod("a", "n1", "10.0.0.1"))
	m.push(pod("b", "n1", "10.0.0.2"))
	m.push(pod("a", "n1", "10.0.0.3"))
	c.want("both, the newest state of each", "Address: +Pod/ns/a +Pod/ns/b")
	c.wantState("the newest state", m)
	c.wantIdle("all is said")
}

func TestUrgentChangesDoNotWait(t *testing.T) {
	m := newMesh(t, discovery.Config{Debounce: time.Hour})
	m.push(pod("a", "n1", "10.0.0.1"), pod("b", "n1", "10.0.0.2"))
	c := m.connect()
	c.subscribe()
	c.next("policies")
	c.next("addresses")
	m.push(pod("c", "n1", "10.0.0.3"))
	c.wantIdle("a new pod waits for company")
	m.push(notReady(pod("a", "n1", "10.0.0.1")))
	c.want("a pod that takes no new connections goes at once", "Address: +Pod/ns/a")
	c.want("and takes others along", "Address: +Pod/ns/c")
	m.push(gone(pod("b", "", "")))
	c.want("a removal goes at once", "Address: -Pod/ns/b")
}

func TestEndpointsThatEndOvertakeEverything(t *testing.T) {
	m := newMesh(t, discovery.Config{Debounce: time.Hour, ResponseBytes: 1}) // one resource a response
	m.push(pod("b", "n1", "10.0.0.2"), pod("c", "n1", "10.0.0.3"))
	c := m.connect()
	c.subscribe()
	c.next("policies")
	c.next("addresses")
	c.next("addresses")
	m.push(
		pod("a", "n1", "10.0.0.1"), pod("d", "n2", "10.0.0.4"), allow("policy", "x"),
		notReady(pod("b", "n1", "10.0.0.2")), gone(pod("c", "", "")),
	)
	c.want("what is gone needs no policy", "Address: -Pod/ns/c")
	c.want("then policies, which the workloads after may name", "Authorization: +ns/policy")
	c.want("then what takes no connections any more", "Address: +Pod/ns/b")
	c.want("then the others, those of the own node first", "Address: +Pod/ns/a")
	c.want("then the others", "Address: +Pod/ns/d")
	c.wantIdle("all is said")
}

func TestOwnPodsComeFirst(t *testing.T) {
	m := newMesh(t, discovery.Config{ResponseBytes: 1})
	m.push(pod("a", "n2", "10.0.0.1"), pod("b", "n1", "10.0.0.2"), pod("c", "n2", "10.0.0.3"), pod("d", "n1", "10.0.0.4"))
	c := m.connect() // of node n1
	c.subscribe()
	c.next("policies")
	for _, want := range []string{"b", "d", "a", "c"} {
		c.want("own ones first", "Address: +Pod/ns/"+want)
	}
}

// An endpoint that was on its way out and is back goes with the others again.
func TestWhatIsBackIsNoLongerUrgent(t *testing.T) {
	m := newMesh(t, discovery.Config{Debounce: time.Hour})
	m.push(pod("a", "n1", "10.0.0.1"))
	c := m.connectAs("node n1", false)
	c.subscribe()
	c.next("policies")
	c.next("addresses")
	changes := append(m.model.Apply(notReady(pod("a", "n1", "10.0.0.1"))), m.model.Apply(pod("a", "n1", "10.0.0.9"))...)
	changes = append(changes, m.model.Apply(pod("0", "n1", "10.0.0.8"))...)
	m.server.Push(changes)
	c.want("both in one response", "Address: +Pod/ns/0 +Pod/ns/a")
}

func TestAnswersOfClientsAreShown(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push(pod("a", "n1", "10.0.0.1"))
	c := m.connect()
	c.subscribe()
	c.next("policies")
	resp := <-c.responses
	c.nack(resp, "ns/a: no")
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "example.com/more"}) // an answer says that all before was read
	c.next("answer")
	status := m.server.Status()
	if len(status.Clients) != 1 || !status.Ready || status.Addresses != 1 {
		t.Fatalf("status is %+v", status)
	}
	types := status.Clients[0].Types
	if got := types[2]; got.Type != address || got.Nacked != 1 || got.Acked != 0 || got.Rejected.Nonce != resp.Nonce || got.Rejected.Message != "ns/a: no" || got.Resources != 1 {
		t.Errorf("status of addresses is %+v", got)
	}
	if got := types[1]; got.Type != authorization || got.Nacked != 0 || got.Acked != 1 || got.Accepted != got.Sent {
		t.Errorf("status of policies is %+v", got)
	}
	if got := status.Clients[0]; got.Node != "n1" || got.Caller != "node n1" || !strings.HasPrefix(got.ID, "ztunnel~") {
		t.Errorf("status of the client is %+v", got)
	}
	c.wantIdle("what was refused is not sent again")
}

func TestTypeThatIsNotServedIsAnsweredEmpty(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push(pod("a", "n1", "10.0.0.1"))
	c := m.connect()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/other.Type", ResourceNamesSubscribe: []string{"x"}})
	if resp := c.next("an answer"); len(resp.Resources) != 0 {
		t.Errorf("got %v", resp)
	}
}

// Protocol notes 4.1: on demand. Nothing by default, but the pods of one's own
// node; by address, by UID, by name; a virtual address brings its endpoints.
func TestOnDemand(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push(pod("own", "n1", "10.0.0.1"), pod("a", "n2", "10.0.0.2"), pod("web", "n2", "10.0.0.3"), service("web", "10.96.0.1", "web"))
	c := m.connect()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, ResourceNamesSubscribe: []string{"*"}, ResourceNamesUnsubscribe: []string{"*"}})
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: authorization})
	c.want("policies are never on demand", "Authorization:")
	c.want("pods of the own node, unasked", "Address: +Pod/ns/own")
	ask := func(names ...string) {
		c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, ResourceNamesSubscribe: names})
	}
	ask("/10.0.0.2")
	if resp := c.next("by address"); describe(resp) != "Address: +Pod/ns/a" || resp.Resources[0].Aliases[0] != "/10.0.0.2" {
		t.Errorf("by address: %v", resp)
	}
	ask("/10.0.0.99")
	c.want("an address that nobody has", "Address: -/10.0.0.99")
	ask("/10.96.0.1")
	c.want("a virtual address and its endpoints", "Address: +Pod/ns/web +ns/web.ns.svc.cluster.local")

	m.push(pod("b", "n2", "10.0.0.5"))
	c.wantIdle("nobody asked for it")
	m.push(pod("a", "n2", "10.0.0.20"))
	c.want("it was sent, so it is kept fresh", "Address: +Pod/ns/a")
	m.push(pod("late", "n2", "10.0.0.99"))
	c.want("the address that nobody had", "Address: +Pod/ns/late")
	m.push(pod("own2", "n1", "10.0.0.6"))
	c.want("another pod of the own node", "Address: +Pod/ns/own2")
	web2 := pod("web2", "n2", "10.0.0.7")
	web2.Object.SetLabels(map[string]string{"app": "web"})
	m.push(web2)
	c.want("another endpoint of a known service", "Address: +Pod/ns/web2")
	m.push(gone(web2))
	c.want("which goes again", "Address: -Pod/ns/web2")
	m.push(gone(pod("b", "", "")))
	c.wantIdle("it was never sent")

	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, ResourceNamesUnsubscribe: []string{"/10.0.0.99"}})
	ask("Kubernetes//Pod/ns/a")
	c.want("what is asked for by name is answered, though it was sent", "Address: +Pod/ns/a")
	m.push(pod("late", "n2", "10.0.0.100"))
	c.wantIdle("no longer asked for")

	again := m.connect()
	again.held = c.held
	again.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, InitialResourceVersions: c.held[address],
		ResourceNamesSubscribe: []string{"*"}, ResourceNamesUnsubscribe: []string{"*"}})
	again.want("on reconnect only what differs", "Address: +Pod/ns/late")
}

func TestSubscriptionToEverythingLater(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push(pod("a", "n2", "10.0.0.1"))
	c := m.connect()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, ResourceNamesSubscribe: []string{"*"}, ResourceNamesUnsubscribe: []string{"*"}})
	c.want("nothing", "Address:")
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, ResourceNamesSubscribe: []string{"*"}})
	c.want("everything", "Address: +Pod/ns/a")
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, ResourceNamesUnsubscribe: []string{"*"}})
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "example.com/more"}) // an answer says that all before was read
	c.next("answer")
	m.push(pod("b", "n2", "10.0.0.2"))
	c.wantIdle("no longer everything")
	m.push(gone(pod("a", "", "")))
	c.want("but what it holds", "Address: -Pod/ns/a")
}

// gRPC clients take 4 MiB at most unless told otherwise.
func TestLargePictureComesInParts(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	var events []model.Event
	for i := range 2500 {
		events = append(events, pod(fmt.Sprintf("pod-with-a-long-name-%01000d", i), "n1", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)))
	}
	m.push(events...)
	c := m.connect()
	c.subscribe()
	largest, parts := 0, 0
	for len(c.held[address]) < 2500 {
		largest = max(largest, proto.Size(c.next("a part")))
		parts++
	}
	if largest > 2<<20 || parts < 4 {
		t.Errorf("%d parts, the largest of %d bytes", parts, largest)
	}
	for i := range events {
		events[i] = gone(events[i])
	}
	m.push(events...)
	for len(c.held[address]) > 0 {
		if size := proto.Size(c.next("removals")); size > 2<<20 {
			t.Errorf("removals of %d bytes", size)
		}
	}
}

// A client that does not read makes the server hold names, not states, and then
// gets the newest state of each, once.
func TestSlowClient(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	const pods, rounds = 300, 20
	state := func(round int) []model.Event {
		var events []model.Event
		for i := range pods {
			e := pod(fmt.Sprintf("pod-%d-%0500d", i, 0), "n1", fmt.Sprintf("10.%d.%d.%d", round, i>>8, i&255))
			events = append(events, e)
		}
		return events
	}
	m.push(state(0)...)
	slow := m.connectAs("node n1", true)
	slow.subscribe()
	fast := m.connectAs("node n2", false)
	fast.subscribe()
	fast.wantState("a fast client beside it", m)
	waiting := func() int {
		most := 0
		for _, c := range m.server.Status().Clients {
			for _, ty := range c.Types {
				most = max(most, ty.Waiting)
			}
		}
		return most
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for round := range rounds {
		m.push(state(round + 1)...)
		fast.wantState("a fast client is not held up", m)
		if w := waiting(); w > pods {
			t.Fatalf("%d names wait for one client, want at most %d", w, pods)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes while a client did not read", grown)
	}
	received := 0
	for {
		resp, err := slow.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		slow.apply(resp)
		received += len(resp.Resources)
		if len(slow.held[address]) == pods && matches(slow, m) {
			break
		}
	}
	if received > 6*pods {
		t.Errorf("the slow client got %d resources for %d pods that changed %d times", received, pods, rounds)
	}
}

// matches reports whether a client holds what the model says.
func matches(c *client, m *mesh) bool {
	for _, r := range m.model.Resources() {
		if c.held[r.Wire.Resource.TypeUrl][r.Name] != r.Version() {
			return false
		}
	}
	return true
}

func TestClientThatNeverReadsIsCut(t *testing.T) {
	m := newMesh(t, discovery.Config{SendTimeout: 50 * time.Millisecond})
	var events []model.Event
	for i := range 3000 {
		events = append(events, pod(fmt.Sprintf("pod-%d-%0500d", i, 0), "n1", "10.0.0.1"))
	}
	m.push(events...)
	c := m.connectAs("node n1", true)
	c.subscribe()
	for deadline := time.Now().Add(patience); len(m.server.Status().Clients) == 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the stream was never open")
		}
	}
	// Wait for the server's word: what is read meanwhile would save the client.
	for deadline := time.Now().Add(patience); len(m.server.Status().Clients) > 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the stream is still open")
		}
	}
	for {
		_, err := c.stream.Recv()
		if err == nil {
			continue
		}
		if !strings.Contains(err.Error(), "no response was read for 50ms") {
			t.Errorf("the stream ended with %v", err)
		}
		break
	}
}

func TestClientFarBehindIsCut(t *testing.T) {
	m := newMesh(t, discovery.Config{MaxNames: 10, Debounce: time.Hour})
	m.push()
	c := m.connect()
	c.subscribe()
	c.next("policies")
	c.next("addresses")
	var events []model.Event
	for i := range 11 {
		events = append(events, pod(fmt.Sprintf("pod-%d", i), "n1", "10.0.0.1"))
	}
	m.push(events...)
	m.push(gone(events[0]))
	c.wantEnd("more names wait than may", "too far behind")
}

func TestCallers(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push(waypointObjects("wp", "10.1.0.1")...)
	tests := []struct {
		name, token string
		node        string // NODE_NAME
		want        string // part of the status; empty: served
	}{
		{name: "no proof", token: "bad", want: "Unauthenticated"},
		{name: "a node, without a name", token: "node n1"},
		{name: "a node that says its own name", token: "node n1", node: "n1"},
		{name: "a node that says another's name", token: "node n1", node: "n2", want: `PermissionDenied desc = NODE_NAME is "n2", but the caller speaks for node "n1"`},
		{name: "a pod of another namespace than its node id says", token: "pod ns/wp-1", want: "PermissionDenied desc = node id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := m.connectAs(tt.token, false)
			c.t = t
			c.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: authorization, Node: nodeNamed(tt.node)})
			if tt.want != "" {
				c.wantEnd("refused", tt.want)
				return
			}
			c.next("served")
		})
	}
}

func TestLimitsOnRequests(t *testing.T) {
	m := newMesh(t, discovery.Config{MaxNames: 3})
	m.push()
	for name, send := range map[string]func(*client){
		"too many names in one request": func(c *client) {
			c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, ResourceNamesSubscribe: strings.Split("a b c d", " ")})
		},
		"too many names in several": func(c *client) {
			c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, ResourceNamesSubscribe: []string{"a", "b", "c"}})
			c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, ResourceNamesSubscribe: []string{"d"}})
		},
		"a name that is too long": func(c *client) {
			c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, ResourceNamesSubscribe: []string{strings.Repeat("x", 2049)}})
		},
		"a version of a name that is too long": func(c *client) {
			c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: address, InitialResourceVersions: map[string]string{strings.Repeat("x", 2049): "1"}})
		},
		"a type that is too long": func(c *client) {
			c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: strings.Repeat("x", 2049)})
		},
		"too many types": func(c *client) {
			for i := range 9 {
				c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: fmt.Sprint("type", i)})
			}
		},
	} {
		c := m.connect()
		send(c)
		c.wantEnd(name, "InvalidArgument")
	}
}

func TestOneCallerMayNotOpenStreamsWithoutEnd(t *testing.T) {
	m := newMesh(t, discovery.Config{MaxStreams: 2})
	m.push()
	var open []*client
	for range 2 {
		c := m.connectAs("node n1", false)
		c.subscribe()
		c.next("served")
		open = append(open, c)
	}
	m.connectAs("node n1", false).wantEnd("a third", "ResourceExhausted desc = node n1 has 2 streams open already")
	other := m.connectAs("node n2", false)
	other.subscribe()
	other.next("another caller is served")
	open[0].cancel()
	m.wantClients(2)
	again := m.connectAs("node n1", false)
	again.subscribe()
	again.next("there is room again")
}

// A token that was taken back ends what it opened.
func TestCallersMustStayProven(t *testing.T) {
	m := newMesh(t, discovery.Config{Reprove: 10 * time.Millisecond})
	m.push()
	c := m.connectAs("node revocable", false)
	c.subscribe()
	c.next("served")
	revoked.Store(true)
	defer revoked.Store(false)
	c.wantEnd("revoked", "Unauthenticated")
}

func TestCloseEndsStreams(t *testing.T) {
	m := newMesh(t, discovery.Config{})
	m.push()
	c := m.connect()
	c.subscribe()
	c.next("served")
	m.server.Close()
	c.wantEnd("closed", "this control plane is shutting down")
	m.connect().wantEnd("refused", "this control plane is shutting down")
}

// Whatever happens in whatever order, with reconnects in between, a client ends
// up with the picture, and never holds a workload whose policy it does not hold.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 2))
			m := newMesh(t, discovery.Config{Debounce: time.Millisecond, ResponseBytes: 300})
			m.push()
			c := m.connect()
			c.subscribe()
			for range 150 {
				switch r.IntN(10) {
				case 0:
					before := c
					c.cancel()
					c = m.connect()
					c.held, c.names = before.held, before.names
					c.subscribe()
				case 1:
					m.push(strict())
				case 2:
					m.push(gone(strict()))
				case 3:
					c.wantState("in between", m)
				default:
					e := pod(fmt.Sprint("p", r.IntN(8)), "n1", fmt.Sprintf("10.0.0.%d", r.IntN(4)))
					if r.IntN(3) == 0 {
						e = gone(e)
					}
					m.push(e)
				}
			}
			c.wantState("at the end", m)
		})
	}
}
