package waypoints

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/e2e/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestProgrammed(t *testing.T) {
	condition := func(kind string, status metav1.ConditionStatus, seen int64) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: "R", Message: "M", ObservedGeneration: seen}
	}
	tests := []struct {
		name       string
		conditions []metav1.Condition
		want       string // why not; empty: it is
	}{
		{"it is", []metav1.Condition{condition("Programmed", "True", 2), condition("Accepted", "True", 2)}, ""},
		{"nothing is said", nil, "ambit check"},
		{"as the API makes it", []metav1.Condition{condition("Accepted", "Unknown", 0), condition("Programmed", "Unknown", 0)}, "ambit check"},
		{"of an older generation", []metav1.Condition{condition("Accepted", "True", 1), condition("Programmed", "True", 1)}, "ambit check"},
		{"not accepted", []metav1.Condition{condition("Programmed", "False", 2), condition("Accepted", "False", 2)}, "Accepted is False (R): M"},
		{"not programmed", []metav1.Condition{condition("Accepted", "True", 2), condition("Programmed", "False", 2)}, "Programmed is False (R): M"},
		{"accepted, and no more", []metav1.Condition{condition("Accepted", "True", 2)}, "ambit check"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := &gateway.Gateway{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: gateway.GatewayStatus{Conditions: tt.conditions}}
			if ok, why := programmed(g); ok != (tt.want == "") || !strings.Contains(why, tt.want) {
				t.Errorf("programmed = %v %q, want %q", ok, why, tt.want)
			}
		})
	}
}

func TestCount(t *testing.T) {
	tests := []struct {
		name  string
		kinds []string
		want  string
	}{
		{"nothing", nil, ""},
		{"one of each", []string{"Namespace", "Service"}, "1 namespace, 1 service"},
		{"several", []string{"Service", "Pod", "Service"}, "1 pod, 2 services"},
		{"a plural of its own", []string{"ServiceEntry", "ServiceEntry"}, "2 serviceentries"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var all []Bound
			for _, kind := range tt.kinds {
				all = append(all, Bound{Kind: kind})
			}
			if got := Count(all); got != tt.want {
				t.Errorf("Count = %q, want %q", got, tt.want)
			}
		})
	}
}

// world is a namespace of its own on a real API server, with classes as the control
// plane makes them and one of somebody else.
type world struct {
	*kubetest.Server
	t      *testing.T
	client *kube.Client
	ns     string
	said   []string
}

func newWorld(t *testing.T, namespace string) *world {
	t.Helper()
	server := kubetest.Get(t)
	client, err := kube.Connect(kube.Config{Kubeconfig: server.Kubeconfig(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gatewayclasses.gateway.networking.k8s.io", "gateways.gateway.networking.k8s.io"} {
		server.Apply(t, kubetest.Definition(t, name))
		server.Kubectl(t, "", "wait", "--for=condition=Established", "--timeout=30s", "crd/"+name)
	}
	server.Apply(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ambit-waypoint, labels: {app.kubernetes.io/part-of: ambit, app.kubernetes.io/managed-by: istiod-lite}}
spec: {controllerName: ambit.dev/waypoint-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: theirs}
spec: {controllerName: example.com/other}
`)
	kubetest.Namespace(t, client.Kube, namespace, nil)
	return &world{Server: server, t: t, client: client, ns: namespace}
}

// say keeps what is said.
func (w *world) say(format string, args ...any) {
	w.said = append(w.said, fmt.Sprintf(format, args...))
}

// want is the waypoint wp.
func (w *world) want() Wanted {
	return Wanted{Namespace: w.ns, Name: "wp", For: "service", Class: "ambit-waypoint"}
}

// name is its name.
func (w *world) name() Name { return Name{Namespace: w.ns, Name: "wp"} }

// find is the waypoint wp as it stands; nil: there is none.
func (w *world) find() *Waypoint {
	w.t.Helper()
	state, err := Read(w.t.Context(), w.client)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range state.List(w.ns) {
		if p.Name == "wp" {
			return &p
		}
	}
	return nil
}

// setStatus writes what the control plane says of Programmed.
func (w *world) setStatus(status, message string) {
	w.t.Helper()
	condition := func(kind, status, message string) string {
		return fmt.Sprintf(`{"type":%q,"status":%q,"reason":"R","message":%q,"observedGeneration":1,"lastTransitionTime":"2030-01-01T00:00:00Z"}`, kind, status, message)
	}
	w.Kubectl(w.t, "", "-n", w.ns, "patch", "gateway", "wp", "--subresource=status", "--type=merge", "-p",
		`{"status":{"addresses":[{"type":"Hostname","value":"wp.example"}],"conditions":[`+condition("Accepted", "True", "")+","+condition("Programmed", status, message)+"]}}")
}

// The life of a waypoint: asked for, waited for, bound, refused to go, gone.
func TestLife(t *testing.T) {
	w := newWorld(t, "life")
	ctx := t.Context()
	for range 2 { // asked for twice, it is the same
		if err := Apply(ctx, w.client, w.want(), false); err != nil {
			t.Fatal(err)
		}
	}
	got := w.find()
	if got == nil || got.For != "service" || got.Programmed || !strings.Contains(got.Reason, "ambit check") || got.Wanted != 0 {
		t.Fatalf("waypoint = %+v", got)
	}
	if manager := w.Kubectl(t, "", "-n", w.ns, "get", "gateway", "wp", "--show-managed-fields", "-o", "jsonpath={.metadata.managedFields[*].manager}"); manager != fieldManager {
		t.Errorf("it is managed by %q", manager)
	}

	w.setStatus("False", "no instance")
	short, cancel := context.WithTimeoutCause(ctx, 3*time.Second, errors.New("not done within 3s"))
	defer cancel()
	explain := func(_ context.Context, deployment string) string { return "deployment " + deployment + " has no image" }
	err := Wait(short, w.client, w.ns, "wp", explain, w.say)
	if err == nil || !strings.Contains(err.Error(), "not done within 3s") || !strings.Contains(err.Error(), "no instance") || !strings.Contains(err.Error(), "deployment wp has no image") {
		t.Errorf("waited for what does not come: %v", err)
	}
	if !slices.ContainsFunc(w.said, func(s string) bool { return s == "waiting: Programmed is False (R): no instance" }) {
		t.Errorf("said %q", w.said)
	}
	w.setStatus("True", "")
	if err := Wait(ctx, w.client, w.ns, "wp", explain, w.say); err != nil {
		t.Error(err)
	}
	w.bind()
	w.remove()
}

// service makes the Service that the control plane makes of wp.
func (w *world) service() {
	w.t.Helper()
	w.Kubectl(w.t, "", "-n", w.ns, "create", "service", "clusterip", "wp", "--tcp=15008")
	w.Kubectl(w.t, "", "-n", w.ns, "patch", "service", "wp", "-p", `{"spec":{"selector":{"app":null,"gateway.networking.k8s.io/gateway-name":"wp"}}}`)
}

// instance makes an instance of it.
func (w *world) instance() {
	w.t.Helper()
	kubetest.Pod(w.t, w.client.Kube, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "wp-1", Labels: map[string]string{"gateway.networking.k8s.io/gateway-name": "wp"}},
		Spec:       corev1.PodSpec{NodeName: "n1"},
		Status:     corev1.PodStatus{PodIP: "10.9.9.8", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	})
}

// bind binds the namespace and a service of its own to wp, which has an instance.
func (w *world) bind() {
	w.t.Helper()
	if before, err := Bind(w.t.Context(), w.client, Subject{Namespace: w.ns}, w.name()); before != (Name{}) || err != nil {
		w.t.Fatalf("bound to %q before, %v", before, err)
	}
	w.Kubectl(w.t, "", "-n", w.ns, "create", "service", "clusterip", "web", "--tcp=80")
	if _, err := Bind(w.t.Context(), w.client, Subject{Namespace: w.ns, Service: "web"}, w.name()); err != nil {
		w.t.Fatal(err)
	}
	w.service()
	if got := w.find(); len(got.Refused()) != 2 || !strings.Contains(got.Bound[0].Refused, "none of its instances") {
		w.t.Errorf("without an instance, bound = %+v", got.Bound)
	}
	w.instance()
	got := w.find()
	if !got.Programmed || got.Ready() != 1 || got.Instances[0].Node != "n1" || len(got.Refused()) != 0 || Count(got.Bound) != "1 namespace, 1 service" || !slices.Contains(got.Addresses, "wp.example") {
		w.t.Errorf("waypoint = %+v", got)
	}
}

// remove removes wp, step by step.
func (w *world) remove() {
	w.t.Helper()
	ctx := w.t.Context()
	steps := []struct {
		name   string
		d      Deletion
		before func()
		want   []string // in the refusal; nil: it goes
	}{
		{"bound", Deletion{}, nil, []string{"namespace life (to life/wp): kubectl label namespace life istio.io/use-waypoint-", "kubectl -n life label service web istio.io/use-waypoint-"}},
		{"a pod has a label of its own", Deletion{Unenroll: true}, func() {
			kubetest.Pod(w.t, w.client.Kube, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "solo", Labels: map[string]string{"istio.io/use-waypoint": "wp"}}, Spec: corev1.PodSpec{NodeName: "n1"}})
		}, []string{"pod life/solo"}},
		{"the namespace and the service", Deletion{Unenroll: true}, func() { w.Kubectl(w.t, "", "-n", w.ns, "label", "pod", "solo", "istio.io/use-waypoint-") }, nil},
	}
	for _, s := range steps {
		if s.before != nil {
			s.before()
		}
		err := Delete(ctx, w.client, []Waypoint{*w.find()}, s.d, w.say)
		if bound, refused := errors.AsType[*BoundError](err); refused != (s.want != nil) || err != nil && !refused {
			w.t.Fatalf("%s: %v", s.name, err)
		} else if refused {
			for _, want := range s.want {
				if !strings.Contains(bound.Error(), want) {
					w.t.Errorf("%s: %v, want %q", s.name, bound, want)
				}
			}
			if w.find() == nil || len(w.find().Bound) == 0 {
				w.t.Errorf("%s: something was changed although it was refused", s.name)
			}
		}
	}
	if w.find() != nil {
		w.t.Error("the waypoint is still there")
	}
	if labels := w.Kubectl(w.t, "", "get", "namespace", w.ns, "-o", "jsonpath={.metadata.labels}"); strings.Contains(labels, "use-waypoint") {
		w.t.Errorf("the namespace has labels %s", labels)
	}
	if labels := w.Kubectl(w.t, "", "-n", w.ns, "get", "service", "web", "-o", "jsonpath={.metadata.labels}"); strings.Contains(labels, "use-waypoint") {
		w.t.Errorf("the service has labels %s", labels)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, "refusals")
	ctx := t.Context()
	w.Apply(t, "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: refusals}\nspec: {gatewayClassName: theirs, listeners: [{name: http, port: 80, protocol: HTTP}]}")
	w.Apply(t, "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: held, namespace: refusals, labels: {istio.io/waypoint-for: all}}\nspec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}")
	tests := []struct {
		name   string
		change func(*Wanted)
		force  bool
		want   string // in the error; empty: applied
	}{
		{"a Gateway of somebody else", func(o *Wanted) { o.Name = "edge" }, true, "not of ambit"},
		{"a class of somebody else", func(o *Wanted) { o.Class = "theirs" }, true, "served by example.com/other"},
		{"a class that nobody knows", func(o *Wanted) { o.Class = "nobodys" }, true, "there is no GatewayClass nobodys"},
		{"a class that the control plane has not made", func(o *Wanted) { o.Class = "istio-waypoint" }, true, "ambit check"},
		{"a namespace that is not there", func(o *Wanted) { o.Namespace = "nowhere" }, false, "no namespace nowhere"},
		{"a field that somebody else has set", func(o *Wanted) { o.Name = "held" }, false, "--force takes it over"},
		{"taken over", func(o *Wanted) { o.Name = "held" }, true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := w.want()
			tt.change(&o)
			err := Apply(ctx, w.client, o, tt.force)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
		})
	}
	state, err := Read(ctx, w.client)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := state.Find(w.ns, []string{"edge"}); err == nil || !strings.Contains(err.Error(), "not of ambit") {
		t.Errorf("a Gateway of somebody else was found: %v", err)
	}
	if _, err := state.Find(w.ns, []string{"nothing"}); err == nil {
		t.Error("a waypoint was found that is not there")
	}
	names, err := Names(ctx, w.client, w.ns)
	if err != nil || len(names) != 1 || names[0].String() != "refusals/held" {
		t.Errorf("names = %v, %v", names, err)
	}
}

func TestParseSubject(t *testing.T) {
	tests := []struct {
		name, text string
		want       Subject
		refused    bool
	}{
		{"a namespace", "namespace/bank", Subject{Namespace: "bank"}, false},
		{"a service of the namespace", "service/web", Subject{Namespace: "shop", Service: "web"}, false},
		{"a service of another", "service/bank/ledger", Subject{Namespace: "bank", Service: "ledger"}, false},
		{"no kind", "bank", Subject{}, true},
		{"another kind", "pod/web", Subject{}, true},
		{"no name", "service/", Subject{}, true},
		{"a namespace in a namespace", "namespace/bank/x", Subject{}, true},
		{"too long", "service/bank/ledger/x", Subject{}, true},
		{"nothing", "", Subject{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseSubject(tt.text, "shop")
			if got != tt.want || (err != nil) != tt.refused {
				t.Errorf("ParseSubject = %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

// What is bound from another namespace is bound to this waypoint there, and refused
// unless the waypoint allows its namespace.
func TestOtherNamespaces(t *testing.T) {
	w := newWorld(t, "others")
	ctx := t.Context()
	w.service()
	w.instance()
	for _, ns := range []string{"others-in", "others-out"} {
		kubetest.Namespace(t, w.client.Kube, ns, nil)
		if _, err := Bind(ctx, w.client, Subject{Namespace: ns}, w.name()); err != nil {
			t.Fatal(err)
		}
	}
	bound := func(o Wanted, shutsOut bool) (refused map[string]bool) {
		t.Helper()
		err := Apply(ctx, w.client, o, false)
		if shutsOut {
			if err == nil || !strings.Contains(err.Error(), "its traffic would be refused") {
				t.Errorf("what is bound was shut out: %v", err)
			}
			err = Apply(ctx, w.client, o, true)
		}
		if err != nil {
			t.Fatal(err)
		}
		refused = map[string]bool{}
		for _, b := range w.find().Bound {
			refused[b.Name] = b.Refused != ""
		}
		return refused
	}
	for _, tt := range []struct {
		name    string
		allowed []string
		in, out bool // refused
	}{
		{"its own only", nil, true, true},
		{"one", []string{"others-in"}, false, true},
		{"all", []string{AllNamespaces}, false, false},
		{"its own only, again", nil, true, true},
	} {
		o := w.want()
		o.Allowed = tt.allowed
		if got := bound(o, tt.name == "its own only, again"); len(got) != 2 || got["others-in"] != tt.in || got["others-out"] != tt.out {
			t.Errorf("%s: refused %v", tt.name, got)
		}
		if o.Allows("others-in") == tt.in || o.Allows("others-out") == tt.out || !o.Allows("others") {
			t.Errorf("%s: Allows says otherwise", tt.name)
		}
	}
	before, err := Bind(ctx, w.client, Subject{Namespace: "others-in"}, Name{})
	if err != nil || before != w.name() {
		t.Errorf("it was bound to %v, %v", before, err)
	}
	if labels := w.Kubectl(t, "", "get", "namespace", "others-in", "-o", "jsonpath={.metadata.labels}"); strings.Contains(labels, "use-waypoint") {
		t.Errorf("labels %s", labels)
	}
}
