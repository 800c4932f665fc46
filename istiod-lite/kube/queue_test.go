package kube

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// podNamed is a pod, and its key.
func podNamed(name string) (model.Key, model.Object) {
	return model.Key{Kind: model.KindPod, Namespace: "ns", Name: name}, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func TestWhatIsUrgentGoesFirst(t *testing.T) {
	q := newQueue()
	put := func(name string, urgent bool) {
		key, o := podNamed(name)
		q.put(key, o, urgent)
	}
	for i := range maxBatch + 10 {
		put(fmt.Sprint("p", i), false)
	}
	put("ends", true)
	put("p5", true) // it waits among the others, too
	put("ends", false)
	names := func(events []model.Event) (all []string) {
		for _, e := range events {
			all = append(all, e.Key.Name)
		}
		return all
	}
	if got := fmt.Sprint(names(q.next())); got != "[ends p5]" {
		t.Errorf("first come %v, want what is urgent", got)
	}
	if got := names(q.next()); len(got) != maxBatch || got[0] != "p0" || got[5] != "p6" {
		t.Errorf("then %d: %v, want the others in their order, so many at a time", len(got), got[:7])
	}
	put("late", true)
	if got := fmt.Sprint(names(q.next())); got != "[late]" {
		t.Errorf("then %v, want what is urgent before the rest", got)
	}
	if got := names(q.next()); len(got) != 9 {
		t.Errorf("then %d, want the rest", len(got))
	}
	if got := q.next(); len(got) != 0 {
		t.Errorf("then %v, want nothing", got)
	}
}

// Whatever is put in, what comes out leads to the same state, each object once per
// state that was seen, and nothing is lost.
func TestQueueAgainstAMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	q, want, got := newQueue(), map[model.Key]model.Object{}, map[model.Key]model.Object{}
	take := func(events []model.Event) {
		seen := map[model.Key]bool{}
		for _, e := range events {
			if seen[e.Key] {
				t.Errorf("%v twice in one batch", e.Key)
			}
			seen[e.Key] = true
			if e.Object == nil {
				delete(got, e.Key)
			} else {
				got[e.Key] = e.Object
			}
		}
	}
	for range 20_000 {
		key, o := podNamed(fmt.Sprint(rnd.IntN(50)))
		switch rnd.IntN(4) {
		case 0:
			take(q.next())
		case 1:
			delete(want, key)
			q.put(key, nil, rnd.IntN(2) == 0)
		default:
			want[key] = o
			q.put(key, o, rnd.IntN(3) == 0)
		}
	}
	for events := q.next(); len(events) > 0; events = q.next() {
		take(events)
	}
	if len(q.latest)+len(q.urgent)+len(q.others) > 0 {
		t.Errorf("left: %d objects, lanes of %d and %d", len(q.latest), len(q.urgent), len(q.others))
	}
	for key, o := range want {
		if got[key] != o {
			t.Errorf("%v is %v, want %v", key, got[key], o)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d objects, want %d", len(got), len(want))
	}
}

func TestWhatIsUrgent(t *testing.T) {
	now := metav1.Now()
	pod := func(deleted *metav1.Time) model.Object {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: deleted}}
	}
	slice := func(terminating ...bool) model.Object {
		s := &discoveryapi.EndpointSlice{}
		for _, is := range terminating {
			s.Endpoints = append(s.Endpoints, discoveryapi.Endpoint{Conditions: discoveryapi.EndpointConditions{Terminating: &is}})
		}
		return s
	}
	tests := []struct {
		name     string
		kind     *kind
		old, now model.Object
		want     bool
	}{
		{"a new pod", podKind(), nil, pod(nil), false},
		{"a pod that changes", podKind(), pod(nil), pod(nil), false},
		{"a pod that is asked to end", podKind(), pod(nil), pod(&now), true},
		{"a pod that is gone", podKind(), pod(nil), nil, true},
		{"new endpoints", sliceKind(), nil, slice(false, false), false},
		{"one more endpoint", sliceKind(), slice(false), slice(false, false), false},
		{"an endpoint that terminates", sliceKind(), slice(false, false), slice(false, true), true},
		{"an endpoint that is gone", sliceKind(), slice(false, false), slice(false), true},
		{"one that terminated is gone", sliceKind(), slice(false, true), slice(false), false},
		{"a slice that is gone", sliceKind(), slice(false), nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.kind.ends(tt.old, tt.now); got != tt.want {
				t.Errorf("urgent: %v, want %v", got, tt.want)
			}
		})
	}
}
