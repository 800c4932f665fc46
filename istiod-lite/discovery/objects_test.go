package discovery_test

import (
	api "istio.io/api/security/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// pod is a ready pod of namespace ns with label app=name.
func pod(name, node, ip string) model.Event {
	return model.Event{Key: model.Key{Kind: model.KindPod, Namespace: "ns", Name: name}, Object: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{
			PodIP:      ip,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}}
}

// notReady makes a pod take no new connections.
func notReady(e model.Event) model.Event {
	p := e.Object.(*corev1.Pod).DeepCopy()
	p.Status.Conditions = nil
	e.Object = p
	return e
}

// service selects the pods with label app=app.
func service(name, ip, app string) model.Event {
	return model.Event{Key: model.Key{Kind: model.KindService, Namespace: "ns", Name: name}, Object: &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Port: 80}}},
	}}
}

// strict is a PeerAuthentication of namespace ns.
func strict() model.Event {
	p := &security.PeerAuthentication{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}}
	p.Spec.Mtls = &api.PeerAuthentication_MutualTLS{Mode: api.PeerAuthentication_MutualTLS_STRICT}
	return model.Event{Key: model.Key{Kind: model.KindPeerAuthentication, Namespace: "ns", Name: "default"}, Object: p}
}

// allow is an AuthorizationPolicy of namespace ns that lets a principal in.
func allow(name, principal string) model.Event {
	p := &security.AuthorizationPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	p.Spec.Rules = []*api.Rule{{From: []*api.Rule_From{{Source: &api.Source{Principals: []string{principal}}}}}}
	return model.Event{Key: model.Key{Kind: model.KindAuthorizationPolicy, Namespace: "ns", Name: name}, Object: p}
}

// gone is the end of an event's object.
func gone(e model.Event) model.Event { return model.Event{Key: e.Key} }
