package kube_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// An upgrade of a definition may end the version that is read.
func TestVersionThatIsServedNoMore(t *testing.T) {
	s := kubetest.Get(t)
	c := s.Client(t)
	ns := namespace(t, c, "versions")
	const crd = "authorizationpolicies.security.istio.io"
	s.Apply(t, kubetest.Definition(t, crd))
	s.Kubectl(t, "", "wait", "--for=condition=Established", "crd/"+crd)
	defer s.Kubectl(t, "", "delete", "crd", crd)
	s.Apply(t, fmt.Sprintf(policyManifest, ns))
	x := read(t, s)
	key := model.Key{Kind: model.KindAuthorizationPolicy, Namespace: ns, Name: "only-web"}
	x.want(t, key, any)
	if v := x.source.Version(model.KindAuthorizationPolicy); v != "v1" {
		t.Fatalf("version %q is read, want v1", v)
	}
	at := slices.Index(strings.Fields(s.Kubectl(t, "", "get", "crd", crd, "-o", "jsonpath={.spec.versions[*].name}")), "v1")
	s.Kubectl(t, "", "patch", "crd", crd, "--type=json", "-p", fmt.Sprintf(`[{"op":"replace","path":"/spec/versions/%d/served","value":false}]`, at))
	kubetest.Eventually(t, "the other version is read", func() error {
		if v := x.source.Version(model.KindAuthorizationPolicy); v != "v1beta1" {
			return fmt.Errorf("version %q is read", v)
		}
		return nil
	})
	s.Apply(t, strings.NewReplacer("security.istio.io/v1", "security.istio.io/v1beta1", "only-web", "later").Replace(fmt.Sprintf(policyManifest, ns)))
	key.Name = "later"
	x.want(t, key, any)
	key.Name = "only-web" // and nothing was lost on the way
	x.want(t, key, any)
}

// The status of an autoscaler changes all the time, and means no work.
func TestStatusOfWhatWasMadeIsNoChange(t *testing.T) {
	s := kubetest.Get(t)
	c := s.Client(t)
	ns := namespace(t, c, "made")
	client, err := kube.Connect(kube.Config{Kubeconfig: s.Kubeconfig(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	var told atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var following lifecycle.Group
	following.Go(ctx, "follow", func(ctx context.Context) {
		client.FollowMade(ctx, "made-by="+ns, func(metav1.Object) { told.Add(1) })
	})
	defer func() { cancel(); following.Wait() }()
	scalers := c.AutoscalingV2().HorizontalPodAutoscalers(ns)
	made, err := scalers.Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "w", Labels: map[string]string{"made-by": ns}},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "w"}, MaxReplicas: 3},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, n int64) {
		t.Helper()
		kubetest.Eventually(t, what, func() error {
			if got := told.Load(); got != n {
				return fmt.Errorf("told of %d changes, want %d", got, n)
			}
			return nil
		})
	}
	want("it came", 1)
	for i := range int32(5) {
		made.Status.CurrentReplicas = i + 1
		if made, err = scalers.UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	made.Spec.MaxReplicas = 4
	if _, err = scalers.Update(t.Context(), made, metav1.UpdateOptions{FieldManager: "somebody"}); err != nil {
		t.Fatal(err)
	}
	want("its specification changed", 2)
	if err := scalers.Delete(t.Context(), "w", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("it went", 3)
}
