package keeper

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// late is a world that knows an object as it was.
type late struct {
	entries
	object model.Object
	says   []model.Condition
}

func (l late) Look(model.Key) (model.Object, []model.Condition) { return l.object, l.says }
func (l late) PodsOn(string) []*corev1.Pod                      { return nil }

// The conditions of istio.io's kinds are one list, which is written as a whole: what
// another controller has said since we heard of the object must not be undone.
func TestWhatOthersSaidMeanwhileIsNotUndone(t *testing.T) {
	s := kubetest.Get(t)
	const crd, ns = "authorizationpolicies.security.istio.io", "others"
	kubetest.Namespace(t, s.Client(t), ns, nil)
	s.Apply(t, kubetest.Definition(t, crd))
	s.Kubectl(t, "", "wait", "--for=condition=Established", "crd/"+crd)
	s.Apply(t, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: "+ns+"}\nspec: {}\n")
	other := func(reason string) {
		s.Kubectl(t, "", "patch", "-n", ns, "authorizationpolicies.v1.security.istio.io", "p", "--subresource=status", "--type=merge", "-p",
			`{"status":{"conditions":[{"type":"Theirs","status":"True","reason":"`+reason+`"}]}}`)
	}
	read := func() (*security.AuthorizationPolicy, string) {
		text := s.Kubectl(t, "", "get", "-n", ns, "authorizationpolicies.v1.security.istio.io", "p", "-o", "json")
		p := &security.AuthorizationPolicy{}
		if err := json.Unmarshal([]byte(text), p); err != nil {
			t.Fatal(err)
		}
		return p, text
	}
	client, err := kube.Connect(kube.Config{Kubeconfig: s.Kubeconfig(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	other("Before")
	known, _ := read()
	w := &late{object: known, says: []model.Condition{{Type: model.ConditionZtunnel, True: true, Reason: "Accepted"}}}
	k := New(Config{Namespace: ns, Identity: "me"}, Deps{
		Client: client, Version: func(model.Kind) string { return "v1" }, World: w, Log: zaptest.NewLogger(t), Metrics: prometheus.NewRegistry(),
	})
	other("Since")
	key := model.Key{Kind: model.KindAuthorizationPolicy, Namespace: ns, Name: "p"}
	if err := k.keepConditions(t.Context(), key); err == nil {
		t.Error("a status was written over one that nobody here knows")
	}
	now, text := read()
	if !strings.Contains(text, "Since") || strings.Contains(text, model.ConditionZtunnel) {
		t.Errorf("the status is %v", now.Status.GetConditions())
	}
	w.object = now
	if err := k.keepConditions(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if _, text = read(); !strings.Contains(text, "Since") || !strings.Contains(text, model.ConditionZtunnel) {
		t.Errorf("the status is not of both: %s", text)
	}
}
