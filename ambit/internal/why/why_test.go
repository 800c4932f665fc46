package why

import (
	"encoding/json"
	"strings"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// answers are connections as ztunnels write them.
const answers = `[
 {"id":7,"state":"open","direction":"outbound","hop":"tunnel","pod":"u1","opened":"2026-03-01T10:00:01Z",
  "source":{"addr":"10.0.1.5:4000","workload":"web","namespace":"shop","identity":"spiffe://cluster.local/ns/shop/sa/web"},
  "destination":{"addr":"10.0.2.6:15008","workload":"db","namespace":"bank","identity":"spiffe://cluster.local/ns/bank/sa/db"},
  "service":"db.bank.svc.cluster.local","authority":"10.0.2.6:5432","originalDst":"10.96.0.9:5432","actualDst":"10.0.2.6:15008",
  "bytesSent":10,"bytesReceived":20},
 {"id":6,"state":"failed","direction":"inbound","hop":"tunnel","pod":"u2","opened":"2026-03-01T10:00:00Z",
  "source":{"addr":"10.0.1.5:4000","identity":"spiffe://cluster.local/ns/shop/sa/web"},
  "destination":{"addr":"10.0.2.6:15008","identity":"spiffe://cluster.local/ns/bank/sa/db"},
  "authority":"10.0.2.6:5432","actualDst":"10.0.2.6:5432","policy":"bank/only-mobile","bytesSent":0,"bytesReceived":0,
  "stage":"policy","fault":"policy","error":"not allowed","hint":"look at bank/only-mobile"},
 {"id":5,"state":"closed","direction":"inbound","hop":"direct","pod":"u2","opened":"2026-03-01T09:59:00Z",
  "source":{"addr":"10.0.2.1:4000"},"destination":{"addr":"10.0.2.6:5432"},
  "originalDst":"10.0.2.6:5432","actualDst":"10.0.2.6:5432","policy":"kubelet probe","bytesSent":1,"bytesReceived":2}
]`

func TestTellConnections(t *testing.T) {
	var all []Connection
	if err := json.Unmarshal([]byte(answers), &all); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"10:00:01, to 10.0.2.6:5432 (called as 10.96.0.9:5432), for db.bank.svc.cluster.local, hop tunnel, " +
			"spiffe://cluster.local/ns/shop/sa/web to spiffe://cluster.local/ns/bank/sa/db, open, 10 bytes there, 20 back",
		"10:00:00, to 10.0.2.6:5432, hop tunnel, spiffe://cluster.local/ns/shop/sa/web to spiffe://cluster.local/ns/bank/sa/db, " +
			"decided by bank/only-mobile, FAILED at stage policy, fault of policy: not allowed\n    try: look at bank/only-mobile",
		"09:59:00, to 10.0.2.6:5432, hop direct, in plaintext, decided by kubelet probe, ended well, 1 bytes there, 2 back",
	} {
		if got := all[i].tell(); got != want {
			t.Errorf("connection %d:\n%s\nwant:\n%s", i, got, want)
		}
	}
}

func TestTellReport(t *testing.T) {
	r := Report{
		Source:      Party{Asked: "shop/web", Pod: "shop/web", Address: "10.0.1.5", Node: "n1", State: "in the mesh", Identity: "spiffe://x", Expires: "tomorrow"},
		Destination: Party{Asked: "api.example.com", State: "a host name", Waypoints: []string{"calls to it are REFUSED: why"}},
		Starts:      []Side{{Node: "n1", Direction: "outbound"}, {Node: "n2", Direction: "outbound", Error: "refused"}},
	}
	var out strings.Builder
	if err := r.Tell(&out); err != nil {
		t.Fatal(err)
	}
	want := `shop/web (10.0.1.5 on n1): in the mesh
  spiffe://x, certificate until tomorrow
api.example.com: a host name
  calls to it are REFUSED: why

where it starts (n1, outbound):
  no connection of these two is open or among the last that have ended
where it starts (n2, outbound):
  could not be asked: refused
no ztunnel sees where it arrives: the destination is not in the mesh, or nothing has been called
`
	if out.String() != want {
		t.Errorf("told:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestOfPod(t *testing.T) {
	pod := func(annotation string, host bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u"}}
		if annotation != "" {
			p.Annotations = map[string]string{"ambient.istio.io/redirection": annotation}
		}
		p.Spec.HostNetwork = host
		return p
	}
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"enrolled", pod("enabled", false), "in the mesh"},
		{"pending", pod("pending", false), "captured, but its ztunnel does not serve it yet"},
		{"outside", pod("", false), "not in the mesh: no label"},
		{"on the node's network", pod("", true), "not in the mesh: it is on the network of its node"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := ofPod(Party{Asked: "shop/web"}, tt.pod)
			if !strings.HasPrefix(p.State, tt.want) || p.account != "default" || p.Pod != "shop/web" {
				t.Errorf("%+v, want state %q", p, tt.want)
			}
		})
	}
}

func TestParseAddr(t *testing.T) {
	for text, want := range map[string]string{"10.0.0.1": "10.0.0.1", "10.0.0.1:80": "10.0.0.1", "[fd00::1]:80": "fd00::1", "fd00::1": "fd00::1", "shop/web": "", "web": ""} {
		got, err := parseAddr(text)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%s: %v, %v; want %q", text, got, err, want)
		}
	}
}
