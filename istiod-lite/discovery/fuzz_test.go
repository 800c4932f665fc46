package discovery

import (
	"testing"

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
	f.Fuzz(func(t *testing.T, first, second []byte) {
		const limit = 4
		s := New(Config{MaxNames: limit}, Deps{Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
		s.Push([]model.Change{{Type: model.TypeAddress, Name: "x", Resource: &model.Resource{
			Type: model.TypeAddress, Name: "x", Wire: &discoveryv3.Resource{Name: "x", Aliases: []string{"/10.0.0.1"}},
		}}})
		st := &stream{server: s, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), types: map[string]*subscription{}}
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
				sub.take(&s.picture, everything(), 1)
			}
			if sub.waits() || len(sub.hasty) > 0 {
				t.Errorf("%v wait after a flush", sub.pending)
			}
		}
	})
}
