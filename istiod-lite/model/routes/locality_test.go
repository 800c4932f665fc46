package routes

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"
)

// One of the lists is followed if it can be, and it is said when it has no effect.
func TestLocality(t *testing.T) {
	type setting = api.LocalityLoadBalancerSetting
	distribute := func(to map[string]uint32) *setting {
		return &setting{Distribute: []*api.LocalityLoadBalancerSetting_Distribute{{From: "r/*", To: to}}}
	}
	failover := func(from, to string) *setting {
		return &setting{Failover: []*api.LocalityLoadBalancerSetting_Failover{{From: from, To: to}}}
	}
	for _, tt := range []struct {
		name     string
		in       *setting
		detected bool   // outliers are
		want     string // the converted lists
		problem  string
		note     string
	}{
		{"nothing", nil, true, "<nil>", "", ""},
		{"by default", &setting{}, true, "[] [] []", "", ""},
		{"switched off", &setting{Enabled: wrapperspb.Bool(false), FailoverPriority: []string{"kubernetes.io/hostname"}}, true, "<nil>", "", ""},
		{"labels", &setting{FailoverPriority: []string{"topology.kubernetes.io/zone", "version=v1"}}, true, `[topology.kubernetes.io/zone= version=v1] [] []`, "", ""},
		{"labels of a waypoint", &setting{FailoverPriority: []string{"topology.kubernetes.io/zone", "version"}}, true, "<nil>", "no value to compare with", ""},
		{"regions", failover("a", "b"), true, "[] [a>b] []", "", ""},
		{"regions without outlier detection", failover("a", "b"), false, "[] [a>b] []", "", "takes effect only with outlierDetection"},
		{"the same region", failover("a", "a"), true, "[] [] []", "two different regions", ""},
		{"shares", distribute(map[string]uint32{"r/b/*": 20, "r/a/*": 80}), false, "[] [] [r/*: r/a/*=80 r/b/*=20]", "", ""},
		{"shares of less than all", distribute(map[string]uint32{"r/a": 99}), false, "<nil>", "sum is 100, not 99", ""},
		{"two lists", &setting{FailoverPriority: []string{"kubernetes.io/hostname"}, Failover: failover("a", "b").Failover}, true, "<nil>", "only one of", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &api.TrafficPolicy{LoadBalancer: &api.LoadBalancerSettings{LocalityLbSetting: tt.in}}
			if tt.detected {
				p.OutlierDetection = &api.OutlierDetection{}
			}
			d := Rule(&networking.DestinationRule{Spec: api.DestinationRule{TrafficPolicy: p}})
			got := "<nil>"
			if l := d.Traffic.Balancer.Locality; l != nil {
				var labels, regions, places []string
				for _, x := range l.Priority {
					labels = append(labels, x.Name+"="+x.Value)
				}
				for _, x := range l.Failover {
					regions = append(regions, x.From+">"+x.To)
				}
				for _, x := range l.Distribute {
					text := x.From + ":"
					for _, to := range x.To {
						text += fmt.Sprintf(" %s=%d", to.To, to.Weight)
					}
					places = append(places, text)
				}
				got = fmt.Sprint(labels, regions, places)
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if got := fmt.Sprint(d.Problems); len(d.Problems) > 1 || !strings.Contains(got, tt.problem) || tt.problem == "" && len(d.Problems) > 0 {
				t.Errorf("problems %s, want %q", got, tt.problem)
			}
			if got := fmt.Sprint(d.Notes); !strings.Contains(got, tt.note) || tt.note == "" && len(d.Notes) > 0 {
				t.Errorf("notes %s, want %q", got, tt.note)
			}
		})
	}
}
