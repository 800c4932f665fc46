package install

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// render renders with values, given as JSON.
func render(t *testing.T, values string) *Rendered {
	t.Helper()
	o := Options{Version: "v1.2.3", Namespace: "mesh", Values: map[string]any{}}
	if err := json.Unmarshal([]byte(values), &o.Values); err != nil {
		t.Fatal(err)
	}
	r, err := Render(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// find returns the object of this kind and name as the API type that it is.
func find[T runtime.Object](t *testing.T, r *Rendered, kind, name string) T {
	t.Helper()
	i := slices.IndexFunc(r.Objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind && o.GetName() == name })
	if i < 0 {
		t.Fatalf("there is no %s %s", kind, name)
	}
	return decode(t, r.Objects[i]).(T)
}

// decode turns an object into its API type, as strictly as the API server can: a
// field that does not exist is an error.
func decode(t *testing.T, object *unstructured.Unstructured) runtime.Object {
	t.Helper()
	text, err := object.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	typed, _, err := decoder.Decode(text, nil, nil)
	if err != nil {
		t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
	}
	return typed
}

// Every object is one the API server knows, is in the installation namespace or
// in none, and carries the label by which it is found again.
func TestObjects(t *testing.T) {
	for _, values := range []string{"{}", `{"cni":{"taint":""},"admissionPolicies":false,"image":{"pullSecrets":["a"]},"ztunnel":{"env":{"A":1}}}`} {
		r := render(t, values)
		seen := map[string]bool{}
		for _, o := range r.Objects {
			decode(t, o)
			id := o.GetKind() + " " + o.GetName()
			if seen[id] {
				t.Errorf("%s: there twice", id)
			}
			seen[id] = true
			if o.GetLabels()[PartOfLabel] != PartOf {
				t.Errorf("%s: no label %s", id, PartOfLabel)
			}
			if rank(o.GetKind()) == len(order) {
				t.Errorf("%s: its kind has no place in order", id)
			}
			clusterWide := strings.HasPrefix(o.GetKind(), "Cluster") || strings.HasPrefix(o.GetKind(), "ValidatingAdmission")
			if want := map[bool]string{true: "", false: "mesh"}[clusterWide]; o.GetNamespace() != want {
				t.Errorf("%s: namespace %q, want %q", id, o.GetNamespace(), want)
			}
		}
		if !strings.Contains(r.Notes, "kubectl label namespace") {
			t.Errorf("the notes do not say how to go on:\n%s", r.Notes)
		}
	}
}

// What Helm runs before it removes the rest, and nobody else.
func TestHelmEndsAgentsFirst(t *testing.T) {
	for _, o := range render(t, "{}").Objects {
		if o.GetAnnotations()["helm.sh/hook"] != "" {
			t.Errorf("%s %s is a hook, which nothing but Helm knows", o.GetKind(), o.GetName())
		}
	}
	files, err := Options{Version: "v1.2.3", Namespace: "mesh"}.files("Helm")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := ParseObjects([]byte(files["ambit/templates/uninstall.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	weights := map[string]string{"ServiceAccount": "-2", "Role": "-2", "RoleBinding": "-1", "Job": "0"}
	for _, o := range objects {
		decode(t, o)
		a := o.GetAnnotations()
		if a["helm.sh/hook"] != "pre-delete" || a["helm.sh/hook-weight"] != weights[o.GetKind()] || o.GetNamespace() != "mesh" {
			t.Errorf("%s %s in %s: annotations %v, want it before the deletion with weight %s", o.GetKind(), o.GetName(), o.GetNamespace(), a, weights[o.GetKind()])
		}
		delete(weights, o.GetKind())
	}
	if len(weights) > 0 {
		t.Errorf("not there: %v", weights)
	}
}

// No part writes pods, or reads Secrets outside the installation namespace;
// nothing is granted by a star.
func TestRights(t *testing.T) {
	r := render(t, "{}")
	for _, o := range r.Objects {
		var rules []rbacv1.PolicyRule
		switch role := decode(t, o).(type) {
		case *rbacv1.ClusterRole:
			rules = role.Rules
			for _, rule := range rules {
				if slices.Contains(rule.Resources, "secrets") {
					t.Errorf("ClusterRole %s: secrets of the whole cluster", role.Name)
				}
			}
		case *rbacv1.Role:
			rules = role.Rules
		}
		for _, rule := range rules {
			if slices.Contains(slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs), "*") {
				t.Errorf("%s: a star in %+v", o.GetName(), rule)
			}
			for _, verb := range rule.Verbs {
				if slices.Contains(rule.Resources, "pods") && !slices.Contains([]string{"get", "list", "watch"}, verb) {
					t.Errorf("%s may %s pods", o.GetName(), verb)
				}
			}
		}
	}
}

func TestPods(t *testing.T) {
	r := render(t, `{"image":{"repository":"registry.test/m","tag":"t1"},"istiod":{"replicas":3},"cni":{"confMode":"chained","probeMode":"snat","binDir":"/x/bin","excludeNamespaces":["a","b"]},"dnsCapture":false,
		"global":{"rootNamespace":"policies","network":"n1"},"ztunnel":{"terminationGracePeriodSeconds":90,"env":{"RUST_LOG":"debug"}}}`)
	istiod := find[*appsv1.Deployment](t, r, "Deployment", "istiod-lite")
	ztunnel := find[*appsv1.DaemonSet](t, r, "DaemonSet", "ztunnel")
	agent := find[*appsv1.DaemonSet](t, r, "DaemonSet", "ambit-cni")
	if *istiod.Spec.Replicas != 3 {
		t.Errorf("replicas = %d", *istiod.Spec.Replicas)
	}
	pods := map[string]corev1.PodSpec{"istiod-lite": istiod.Spec.Template.Spec, "ztunnel": ztunnel.Spec.Template.Spec, "cni": agent.Spec.Template.Spec}
	for name, spec := range pods {
		c := spec.Containers[0]
		if want := "registry.test/m/" + name + ":t1"; c.Image != want {
			t.Errorf("image %s, want %s", c.Image, want)
		}
		s := c.SecurityContext
		if !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || s.Privileged != nil && *s.Privileged {
			t.Errorf("%s: security context %+v", name, s)
		}
		if c.ReadinessProbe == nil {
			t.Errorf("%s: no readiness probe", name)
		}
	}
	if *pods["istiod-lite"].SecurityContext.RunAsUser == 0 || len(istiod.Spec.Template.Spec.Containers[0].SecurityContext.Capabilities.Add) > 0 {
		t.Error("istiod-lite has privileges")
	}
	wantAll(t, "istiod-lite", pods["istiod-lite"].Containers[0].Args, "--root-namespace=policies", "--network=n1", "--taint=cni.istio.io/not-ready")
	wantAll(t, "agent", pods["cni"].Containers[0].Args, "--conf-mode=chained", "--probe-mode=snat", "--exclude-namespaces=a,b,mesh", "--dns-capture=never")
	var env []string
	for _, e := range pods["ztunnel"].Containers[0].Env {
		env = append(env, e.Name+"="+e.Value)
	}
	wantAll(t, "ztunnel", env, "XDS_ADDRESS=https://istiod.mesh.svc:15012", "TERMINATION_GRACE_PERIOD_SECONDS=90", "ISTIO_META_DNS_CAPTURE=false", "RUST_LOG=debug", "NETWORK=n1")
	if n := len(slices.Compact(slices.Sorted(slices.Values(names(pods["ztunnel"].Containers[0].Env))))); n != len(env) {
		t.Errorf("a variable is set twice: %v", env)
	}
	if *pods["ztunnel"].TerminationGracePeriodSeconds != 90 {
		t.Error("ztunnel: grace period")
	}
	if pods["cni"].Volumes[0].HostPath.Path != "/x/bin" {
		t.Errorf("agent: plugin goes to %s", pods["cni"].Volumes[0].HostPath.Path)
	}
}

// names are the names of variables.
func names(env []corev1.EnvVar) (out []string) {
	for _, e := range env {
		out = append(out, e.Name)
	}
	return out
}

// wantAll reports what of want is not in have.
func wantAll(t *testing.T, who string, have []string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(have, w) {
			t.Errorf("%s: %s is not in %q", who, w, have)
		}
	}
}

func TestRefusedOptions(t *testing.T) {
	tests := []struct {
		name    string
		options Options
		want    string
	}{
		{"a value that does not exist", Options{Values: map[string]any{"imagee": "x"}}, "imagee"},
		{"a value of another kind", Options{Values: map[string]any{"istiod": map[string]any{"replicas": "two"}}}, "replicas"},
		{"a repository with a tag", Options{Values: map[string]any{"image": map[string]any{"repository": "a/b:c"}}}, "repository"},
		{"a conf mode that does not exist", Options{Values: map[string]any{"cni": map[string]any{"confMode": "x"}}}, "confMode"},
		{"a probe mode that does not exist", Options{Values: map[string]any{"cni": map[string]any{"probeMode": "x"}}}, "probeMode"},
		{"an old cluster", Options{KubeVersion: "v1.28.3"}, "needs >=1.30.0"},
		{"a cluster without a version", Options{KubeVersion: "new"}, "new"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.Version = "dev"
			if _, err := Render(tt.options); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
		})
	}
	for _, version := range []string{"v1.30.0", "v1.36.3", "v1.34.1-gke.100", "v1.33.4+k3s1"} {
		if _, err := Render(Options{Version: "dev", KubeVersion: version}); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
}

// What is printed for GitOps is complete: namespace first, definitions, objects.
func TestPrint(t *testing.T) {
	var with, without bytes.Buffer
	o := Options{Version: "dev", Namespace: "mesh"}
	if err := Print(&with, o, true); err != nil {
		t.Fatal(err)
	}
	if err := Print(&without, o, false); err != nil {
		t.Fatal(err)
	}
	all, err := ParseObjects(with.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	few, err := ParseObjects(without.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if all[0].GetKind() != "Namespace" || all[1].GetKind() != "CustomResourceDefinition" || len(all)-len(few) < 8 {
		t.Errorf("%d objects, %d without definitions; first %s, then %s", len(all), len(few), all[0].GetKind(), all[1].GetKind())
	}
	if rendered := render(t, "{}"); len(few) != len(rendered.Objects)+1 {
		t.Errorf("%d objects printed, %d rendered", len(few), len(rendered.Objects))
	}
}

// A part is printed alone, for an installation that has the others from elsewhere;
// all parts together are the whole.
func TestPrintParts(t *testing.T) {
	o := Options{Version: "dev", Namespace: "mesh"}
	sum := 0
	for _, part := range []string{"istiod-lite", "ztunnel", "cni"} {
		var out bytes.Buffer
		if err := Print(&out, o, false, part); err != nil {
			t.Fatal(err)
		}
		objects, err := ParseObjects(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range objects[1:] {
			if got := object.GetLabels()["app.kubernetes.io/name"]; got != part {
				t.Errorf("%s: %s %s is of %q", part, object.GetKind(), object.GetName(), got)
			}
		}
		sum += len(objects) - 1
	}
	if all := render(t, "{}"); sum != len(all.Objects) {
		t.Errorf("%d objects in all parts, %d in the whole", sum, len(all.Objects))
	}
	if err := Print(io.Discard, o, false, "sidecar"); err == nil || !strings.Contains(err.Error(), "ztunnel") {
		t.Errorf("an unknown part: %v, want the names of the known ones", err)
	}
}

func FuzzParseObjects(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: A\nmetadata: {name: b}\n---\n# nothing\n---\n{}"))
	f.Add([]byte("- a"))
	f.Fuzz(func(t *testing.T, text []byte) {
		objects, err := ParseObjects(text)
		if err != nil {
			return
		}
		for _, o := range objects {
			if o.GetKind() == "" || o.GetName() == "" {
				t.Fatalf("an object without kind or name was taken: %v", o)
			}
		}
	})
}
