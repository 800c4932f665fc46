package waypoint

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// Requests stay where the waypoint is while the endpoints there serve, and go on in the
// order that a rule says when they do not.
func TestLocality(t *testing.T) {
	const detect = "outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 600s, maxEjectionPercent: 100}"
	for _, tt := range []struct {
		name, policy string
		want         []string // pods that answer: at first, when those have failed, and so on
	}{
		{"near ones first", "{loadBalancer: {localityLbSetting: {enabled: true}}, " + detect + "}", []string{"near", "zone", "east west"}},
		{"then a region", "{loadBalancer: {localityLbSetting: {failover: [{from: home, to: west}]}}, " + detect + "}", []string{"near", "zone", "west", "east"}},
		{"by labels", "{loadBalancer: {localityLbSetting: {failoverPriority: [topology.kubernetes.io/region=east]}}, " + detect + "}", []string{"east", "near west zone"}},
		{"in shares", "{loadBalancer: {localityLbSetting: {distribute: [{from: home/a/*, to: {'home/b/*': 50, 'west/*': 50}}]}}, " + detect + "}", []string{"west zone"}},
		{"switched off", "{loadBalancer: {localityLbSetting: {enabled: false}}, " + detect + "}", []string{"east near west zone"}},
		{"without outlier detection", "{loadBalancer: {localityLbSetting: {enabled: true}}}", []string{"east near west zone"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.apply("node", "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/region: home, topology.kubernetes.io/zone: a}}\n")
			s := w.outside("bank", "{number: 80, name: http, targetPort: 8080}", "locality: home/a", "locality: home/b", "locality: east/a", "locality: west/a")
			failing := map[string]*atomic.Bool{}
			for i, name := range []string{"near", "zone", "east", "west"} {
				failing[name] = new(atomic.Bool)
				s.pods[i].name = name
				w.serveApp(s.pods[i], http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if failing[name].Load() {
						rw.WriteHeader(500)
					}
				}))
			}
			w.rule("bank.example", "near", "trafficPolicy: "+tt.policy)
			c := w.client("web").http(s, 80, false)
			answering := func() string {
				pods := map[string]bool{}
				for range 60 {
					if a := get(t.Context(), c, "GET", "/"); a.status == 200 {
						pods[a.pod()] = true
					}
				}
				return strings.Join(slices.Sorted(maps.Keys(pods)), " ")
			}
			for _, want := range tt.want {
				w.eventually("requests go to "+want, func() bool { return answering() == want })
				if got := answering(); got != want {
					t.Fatalf("%s answered, want %s", got, want)
				}
				for name := range strings.FieldsSeq(want) {
					failing[name].Store(true)
				}
			}
		})
	}
}
