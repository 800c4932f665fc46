package agent

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"net/netip"
)

type labels = map[string]string

func TestDecide(t *testing.T) {
	ambient, none := labels{modeLabel: modeAmbient}, labels{modeLabel: modeNone}
	for _, tt := range []struct {
		name string
		pod  Pod
		want bool
		why  string // in the reason
	}{
		{"no label anywhere", Pod{}, false, "neither"},
		{"pod label ambient", Pod{Labels: ambient}, true, "pod label"},
		{"namespace label ambient", Pod{NamespaceLabels: ambient}, true, "namespace label"},
		{"pod label none beats the namespace", Pod{Labels: none, NamespaceLabels: ambient}, false, "none"},
		{"pod label ambient beats a namespace without", Pod{Labels: ambient, NamespaceLabels: none}, true, "pod label"},
		{"another pod label does not beat the namespace", Pod{Labels: labels{modeLabel: "x"}, NamespaceLabels: ambient}, true, "namespace label"},
		{"another pod label alone", Pod{Labels: labels{modeLabel: "x"}}, false, "something else"},
		{"host network never", Pod{Labels: ambient, HostNetwork: true}, false, "network of its node"},
		{"sidecar never", Pod{Labels: ambient, Annotations: labels{"sidecar.istio.io/status": ""}}, false, "sidecar"},
		{"excluded namespace never", Pod{Labels: ambient, Namespace: "kube-system"}, false, "excluded"},
		{"ended pod never", Pod{Labels: ambient, Terminal: true}, false, "ended"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, why := decide(tt.pod, []string{"kube-system"})
			if got != tt.want || !strings.Contains(why, tt.why) {
				t.Errorf("decide = %v because %q, want %v because of %q", got, why, tt.want, tt.why)
			}
		})
	}
}

func TestRedirectionFromAnnotations(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ann   labels
		dns   DNSCapture
		want  redirect.Config
		notes int
	}{
		{"nothing", nil, DNSNever, redirect.Config{}, 0},
		{"bypass inbound", labels{bypassAnnotation: "true"}, DNSNever, redirect.Config{BypassInbound: true}, 0},
		{"what cannot be read captures", labels{bypassAnnotation: "yes please"}, DNSNever, redirect.Config{}, 1},
		{"virtual interfaces", labels{virtualAnnotation: "a0, b0,"}, DNSNever, redirect.Config{VirtualInterfaces: []string{"a0", "b0"}}, 0},
		{"dns global on", nil, DNSOn, redirect.Config{DNS: true}, 0},
		{"dns global on, pod off", labels{dnsAnnotation: "false"}, DNSOn, redirect.Config{}, 0},
		{"dns global off, pod on", labels{dnsAnnotation: "true"}, DNSOff, redirect.Config{DNS: true}, 0},
		{"dns never, pod on", labels{dnsAnnotation: "true"}, DNSNever, redirect.Config{}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, notes := redirection(Pod{Annotations: tt.ann}, tt.dns)
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || len(notes) != tt.notes {
				t.Errorf("redirection differs, or notes %q:\n%s", notes, diff)
			}
		})
	}
}
