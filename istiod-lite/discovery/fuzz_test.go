package discovery

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Whatever a proven client asks for, and in whatever order, what it makes the
// server hold is bounded, and a flush leaves nothing waiting.
func FuzzRequests(f *testing.F) {
	add := func(requests ...*discoveryv3.DeltaDiscoveryRequest) {
		var seeds [2][]byte
		for i, r := range requests {
			raw, err := proto.Marshal(r)
			if err != nil {
				f.Fatal(err)
			}
			seeds[i] = raw
		}
		f.Add(seeds[0], seeds[1])
	}
	add(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: model.AddressURL},
		&discoveryv3.DeltaDiscoveryRequest{TypeUrl: model.AddressURL, ResponseNonce: "1"})
	add(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: model.AddressURL, ResourceNamesSubscribe: []string{"*", "/10.0.0.1"}, ResourceNamesUnsubscribe: []string{"*"}},
		&discoveryv3.DeltaDiscoveryRequest{TypeUrl: model.AddressURL, ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: map[string]string{"a": "b"}})
	add(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: model.AddressURL, Node: &corev3.Node{Id: "waypoint~10.0.0.1~wp.ns~ns.svc"}},
		&discoveryv3.DeltaDiscoveryRequest{TypeUrl: model.AddressURL, ResourceNamesSubscribe: []string{"x", "/10.0.0.1"}})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		const limit = 4
		s := New(Config{MaxNames: limit}, Deps{Log: zap.NewNop(), Proxies: onlyWP{}, Metrics: prometheus.NewRegistry()})
		s.Push([]model.Change{{Type: model.TypeAddress, Name: "x", Resource: &model.Resource{
			Type: model.TypeAddress, Name: "x", Wire: &discoveryv3.Resource{Name: "x", Aliases: []string{"/10.0.0.1"}},
		}}})
		st := &stream{server: s, caller: Caller{Node: "n"}, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), types: map[string]*subscription{}}
		for _, raw := range [][]byte{first, second} {
			req := &discoveryv3.DeltaDiscoveryRequest{}
			if proto.Unmarshal(raw, req) != nil || st.introduce(req) != nil || st.request(req) != nil {
				return
			}
			for url, sub := range st.types {
				if len(sub.names) > limit || len(sub.url) > 3*maxTextBytes {
					t.Errorf("%q holds %d names", url, len(sub.names))
				}
			}
		}
		for _, sub := range st.types {
			for range limit * 8 { // a response of the smallest size at a time
				if d := sub.take(&s.picture, everything(), 1); st.waypoint != "" && len(d.resources) > 0 {
					t.Errorf("a waypoint to which nothing is bound gets %v", d.resources)
				}
			}
			if sub.waits() || len(sub.hasty) > 0 {
				t.Errorf("%v wait after a flush", sub.pending)
			}
		}
	})
}

// onlyWP knows one waypoint, whose pod is wp.
type onlyWP struct{}

func (onlyWP) WaypointOf(_, pod, _ string) (string, error) {
	if pod != "wp" {
		return "", ErrUndecided
	}
	return "ns/wp.ns.svc.cluster.local", nil
}
