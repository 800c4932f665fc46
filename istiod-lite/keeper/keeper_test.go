package keeper

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	meta "istio.io/api/meta/v1alpha1"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// entries is a world of ServiceEntries.
type entries map[model.Key]*networking.ServiceEntry

func (e entries) Look(key model.Key) (model.Object, []model.Condition) {
	if o := e[key]; o != nil {
		return o, nil
	}
	return nil, nil
}
func (e entries) Keys(model.Kind) []model.Key { return slices.Collect(maps.Keys(e)) }
func (e entries) PodsOn(string) []*corev1.Pod { return nil }
func (e entries) Known() <-chan struct{}      { return nil }

// entry is a ServiceEntry of hosts.
func entry(name string, hosts ...string) (model.Key, *networking.ServiceEntry) {
	e := &networking.ServiceEntry{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	e.Spec.Hosts, e.Spec.Resolution = hosts, api.ServiceEntry_DNS
	return model.Key{Kind: model.KindServiceEntry, Namespace: "ns", Name: name}, e
}

// write puts what is to stand into the status, as the API server would.
func write(e *networking.ServiceEntry, content []any) {
	e.Status.Addresses = nil
	for _, c := range content {
		e.Status.Addresses = append(e.Status.Addresses, &api.ServiceEntryAddress{
			Value: c.(map[string]any)["value"].(string), Host: c.(map[string]any)["host"].(string),
		})
	}
}

// text is the status in one line.
func text(e *networking.ServiceEntry) string {
	var all []string
	for _, a := range e.Status.GetAddresses() {
		all = append(all, a.Host+"="+a.Value)
	}
	return strings.Join(all, " ")
}

func TestAddressesStay(t *testing.T) {
	key, e := entry("one", "a.example", "b.example", "*.example")
	world := entries{key: e}
	p := newPool()
	content, differs := p.assign(world, key, e)
	if !differs || len(content) != 4 {
		t.Fatalf("assigned %v, %v, want two addresses for each of two hosts", content, differs)
	}
	write(e, content)
	first := text(e)
	if _, differs = p.assign(world, key, e); differs {
		t.Error("a second look wants to write again")
	}
	// Another leader reads what stands; a lost status is made again as it was.
	other := newPool()
	if _, differs = other.assign(world, key, e); differs {
		t.Error("another leader wants to write again")
	}
	e.Status.Addresses = nil
	content, _ = newPool().assign(world, key, e)
	write(e, content)
	if text(e) != first {
		t.Errorf("after it was lost: %s, was %s", text(e), first)
	}
	// A host more leaves the others where they were; one less frees its own.
	e.Spec.Hosts = append(e.Spec.Hosts, "c.example")
	content, _ = p.assign(world, key, e)
	write(e, content)
	if !strings.HasPrefix(text(e), first) || len(e.Status.Addresses) != 6 {
		t.Errorf("with a third host: %s, was %s", text(e), first)
	}
	e.Spec.Hosts = e.Spec.Hosts[1:]
	content, _ = p.assign(world, key, e)
	write(e, content)
	if strings.Contains(text(e), "a.example") || len(e.Status.Addresses) != 4 || len(p.taken) != 4 {
		t.Errorf("without the first host: %s, %d taken", text(e), len(p.taken))
	}
	p.release(key)
	if len(p.taken) != 0 {
		t.Errorf("of an entry that is gone %d are taken", len(p.taken))
	}
}

// Of two entries with one address, as two leaders in a row could have written it,
// the first by name keeps it.
func TestAnAddressHasOneOwner(t *testing.T) {
	keyA, a := entry("a", "a.example")
	keyB, b := entry("b", "b.example")
	a.Status.Addresses = []*api.ServiceEntryAddress{{Host: "a.example", Value: "240.240.0.5"}, {Host: "a.example", Value: "2001:2::5"}}
	b.Status.Addresses = []*api.ServiceEntryAddress{{Host: "b.example", Value: "240.240.0.5"}, {Host: "b.example", Value: "2001:2::6"}}
	world := entries{keyA: a, keyB: b}
	p := newPool()
	content, differs := p.assign(world, keyB, b)
	if !differs {
		t.Fatal("b keeps the address of a")
	}
	write(b, content)
	if _, differs := p.assign(world, keyA, a); differs {
		t.Error("a lost its address")
	}
	if strings.Contains(text(b), "240.240.0.5") || !strings.Contains(text(b), "2001:2::6") {
		t.Errorf("b has %s", text(b))
	}
}

// Whatever comes and goes: no address is given twice, all are of the ranges, and a
// look at what stands changes nothing.
func TestPoolAgainstItself(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	world, p := entries{}, newPool()
	for step := range 3000 {
		key, e := entry(fmt.Sprint("e", rnd.IntN(200)))
		switch {
		case rnd.IntN(4) == 0:
			delete(world, key)
			p.release(key)
			continue
		case world[key] != nil:
			e = world[key]
		}
		world[key] = e
		e.Spec.Hosts = nil
		for range rnd.IntN(4) {
			if host := fmt.Sprintf("h%d.example", rnd.IntN(6)); !slices.Contains(e.Spec.Hosts, host) {
				e.Spec.Hosts = append(e.Spec.Hosts, host)
			}
		}
		content, _ := p.assign(world, key, e)
		write(e, content)
		if step%100 != 0 {
			continue
		}
		owners, fresh := map[string]string{}, newPool()
		for key, e := range world {
			for _, a := range e.Status.Addresses {
				addr := netip.MustParseAddr(a.Value)
				if before, twice := owners[a.Value]; twice {
					t.Fatalf("%s is of %s and %s", a.Value, before, key)
				}
				owners[a.Value] = key.String()
				if rs := ranges(); !rs[0].Contains(addr) && !rs[1].Contains(addr) {
					t.Fatalf("%s is of neither range", a.Value)
				}
			}
			if _, differs := fresh.assign(world, key, e); differs {
				t.Fatalf("%v would be written again: %s", key, text(e))
			}
		}
	}
}

func TestConditionsAreMerged(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	before := now.Add(-time.Hour)
	accepted := model.Condition{Type: model.ConditionZtunnel, True: true, Reason: "Accepted"}
	refused := model.Condition{Type: model.ConditionZtunnel, Reason: "UnsupportedValue", Message: "why"}
	tests := []struct {
		name       string
		ours       []standing
		want       []model.Condition
		generation int64
		same       bool
		since      time.Time
	}{
		{"nothing, and nothing to say", nil, nil, 1, true, time.Time{}},
		{"said for the first time", nil, []model.Condition{accepted}, 1, false, now},
		{"said already", []standing{{accepted, before, 1}}, []model.Condition{accepted}, 1, true, before},
		{"the same of a later generation keeps its time", []standing{{accepted, before, 1}}, []model.Condition{accepted}, 2, false, before},
		{"another reason keeps its time", []standing{{model.Condition{Type: model.ConditionZtunnel, Reason: "Invalid"}, before, 1}}, []model.Condition{refused}, 1, false, before},
		{"another value has another time", []standing{{accepted, before, 1}}, []model.Condition{refused}, 1, false, now},
		{"nothing to say any more", []standing{{accepted, before, 1}}, nil, 1, false, time.Time{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := sameConditions(tt.ours, tt.want, tt.generation); got != tt.same {
				t.Errorf("same: %v, want %v", got, tt.same)
			}
			next := merge(tt.ours, tt.want, tt.generation, now)
			if len(next) != len(tt.want) {
				t.Fatalf("merged to %v", next)
			}
			for _, c := range next {
				if !c.since.Equal(tt.since) || c.generation != tt.generation {
					t.Errorf("it stands since %v, generation %d; want %v", c.since, c.generation, tt.since)
				}
			}
		})
	}
}

func TestConditionsOfOthersStay(t *testing.T) {
	p := &security.AuthorizationPolicy{}
	p.Status.Conditions = []*meta.IstioCondition{{Type: "Reconciled", Status: "True"}, {Type: model.ConditionZtunnel, Status: "False"}}
	ours, others := statusOf(p)
	if len(ours) != 1 || ours[0].Type != model.ConditionZtunnel || len(others) != 1 || others[0].Type != "Reconciled" {
		t.Errorf("ours %v, of others %v", ours, others)
	}
}
