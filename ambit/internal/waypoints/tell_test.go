package waypoints

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// What is said about calls to a service and its pod, with and without its waypoint.
func TestTell(t *testing.T) {
	meta := func(name string, labels map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: labels}
	}
	app := map[string]string{"app": "web"}
	service := &corev1.Service{ObjectMeta: meta("web", map[string]string{"istio.io/use-waypoint": "wp"})}
	service.Spec.ClusterIP, service.Spec.Selector, service.Spec.Ports = "10.96.0.1", app, []corev1.ServicePort{{Port: 80}}
	pod := &corev1.Pod{ObjectMeta: meta("web-1", app)}
	plain := &corev1.Service{ObjectMeta: meta("plain", nil), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.2"}}
	gw := Wanted{Namespace: "shop", Name: "wp", For: "service", Class: Classes()[0]}.Gateway()
	own := &corev1.Service{ObjectMeta: meta("wp", nil), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.3", Ports: []corev1.ServicePort{{Port: 15008}}}}
	open := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"ambit.dev/on-waypoint-failure": "open"}}}
	for _, tt := range []struct {
		name  string
		world []model.Object
		kind  model.Kind
		of    string
		want  []string // parts of the lines
	}{
		{"a service that asks for none", []model.Object{plain}, model.KindService, "plain", nil},
		{"what is not there", nil, model.KindPod, "nobody", nil},
		{"a waypoint that serves", []model.Object{service, gw, own}, model.KindService, "web", []string{"calls to it go through waypoint shop/wp"}},
		{"a waypoint that is missing", []model.Object{service}, model.KindService, "web", []string{"calls to it are REFUSED: waypoint shop/wp is not ready: there is no Gateway of that name"}},
		{"a waypoint without a Service", []model.Object{service, gw}, model.KindService, "web", []string{"REFUSED: waypoint shop/wp is not ready: there is no Service shop/wp"}},
		{"a waypoint that is gone around", []model.Object{service, open}, model.KindService, "web", []string{"calls to it go around its waypoint"}},
		{"a pod behind a waypoint", []model.Object{service, pod, gw, own}, model.KindPod, "web-1", []string{"on the ports of service shop/web it lets in nobody but the waypoint of that service"}},
		{"a pod behind one that is missing", []model.Object{service, pod}, model.KindPod, "web-1", []string{"refused; and waypoint shop/wp is not ready"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Of(tt.world...).Tell(tt.kind, "shop", tt.of)
			ok := len(got) == len(tt.want)
			for i := range min(len(got), len(tt.want)) {
				ok = ok && strings.Contains(got[i], tt.want[i])
			}
			if !ok {
				t.Errorf("told %s, want %s", fmt.Sprintf("%q", got), fmt.Sprintf("%q", tt.want))
			}
		})
	}
}
