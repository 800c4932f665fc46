package routes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// Limits, the PROXY protocol and what counts against endpoints become the waypoint's;
// what has no effect is said.
func TestLimitsOfRules(t *testing.T) {
	duration := func(d time.Duration) *api.TrafficPolicy {
		return &api.TrafficPolicy{ConnectionPool: &api.ConnectionPoolSettings{Tcp: &api.ConnectionPoolSettings_TCPSettings{MaxConnectionDuration: durationpb.New(d)}}}
	}
	for _, tt := range []struct {
		name string
		in   *api.TrafficPolicy
		get  func(*waypointapi.Traffic) any
		want string
		said string // a part of problems and notes; "": nothing is
	}{
		{"PROXY protocol by default", &api.TrafficPolicy{ProxyProtocol: &api.TrafficPolicy_ProxyProtocol{}}, func(t *waypointapi.Traffic) any { return t.ProxyProtocol }, "PROXY_V1", "note: spec.trafficPolicy.proxyProtocol"},
		{"PROXY protocol, version 2", &api.TrafficPolicy{ProxyProtocol: &api.TrafficPolicy_ProxyProtocol{Version: api.TrafficPolicy_ProxyProtocol_V2}}, func(t *waypointapi.Traffic) any { return t.ProxyProtocol }, "PROXY_V2", "have no tunnel"},
		{"age of connections", duration(time.Minute), func(t *waypointapi.Traffic) any { return t.Limits.MaxDuration.AsDuration() }, "1m0s", ""},
		{"age of connections, too short", duration(time.Microsecond), func(t *waypointapi.Traffic) any { return t.Limits.MaxDuration }, "<nil>", "problem: spec.trafficPolicy.connectionPool.tcp.maxConnectionDuration"},
		{"retries", &api.TrafficPolicy{ConnectionPool: &api.ConnectionPoolSettings{Http: &api.ConnectionPoolSettings_HTTPSettings{MaxRetries: 7}}}, func(t *waypointapi.Traffic) any { return t.Limits.Retries }, "7", "each instance"},
		{"failures apart", &api.TrafficPolicy{OutlierDetection: &api.OutlierDetection{SplitExternalLocalOriginErrors: true}}, func(t *waypointapi.Traffic) any { return t.Outlier.ConsecutiveLocal.GetValue() }, "5", ""},
		{"failures apart, so many", &api.TrafficPolicy{OutlierDetection: &api.OutlierDetection{SplitExternalLocalOriginErrors: true, ConsecutiveLocalOriginFailures: wrapperspb.UInt32(2)}}, func(t *waypointapi.Traffic) any { return t.Outlier.ConsecutiveLocal.GetValue() }, "2", ""},
		{"failures that are not apart", &api.TrafficPolicy{OutlierDetection: &api.OutlierDetection{ConsecutiveLocalOriginFailures: wrapperspb.UInt32(2)}}, func(t *waypointapi.Traffic) any { return t.Outlier.ConsecutiveLocal }, "<nil>", "note: spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures"},
		{"codes", &api.TrafficPolicy{OutlierDetection: &api.OutlierDetection{OutlierDetectionHttpErrorCodes: []uint32{429}}}, func(t *waypointapi.Traffic) any { return t.Outlier.Consecutive_5Xx }, "5", "problem: spec.trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Rule(&networking.DestinationRule{Spec: api.DestinationRule{TrafficPolicy: tt.in, Subsets: []*api.Subset{{Name: "heir", TrafficPolicy: &api.TrafficPolicy{}}}}})
			for _, traffic := range []*waypointapi.Traffic{d.Traffic, d.Subsets[0].Traffic} {
				if got := fmt.Sprint(tt.get(traffic)); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			}
			said := ""
			for _, p := range d.Problems {
				said += "problem: " + p.String() + "\n"
			}
			for _, n := range d.Notes {
				said += "note: " + n.String() + "\n"
			}
			if !strings.Contains(said, tt.said) || tt.said == "" && said != "" {
				t.Errorf("said %q, want %q", said, tt.said)
			}
		})
	}
}
