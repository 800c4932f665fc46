package gateways

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/istiod-lite/kube"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waypointGateway is a Gateway as users write it.
func waypointGateway(t testing.TB, more string) *gateway.Gateway {
	t.Helper()
	g := &gateway.Gateway{}
	text := `
metadata: {name: wp, namespace: shop, uid: u-1, annotations: {plain: "1"` + more + `}}
spec:
  gatewayClassName: ambit-waypoint
  infrastructure: {labels: {team: a, istio.io/dataplane-mode: ambient, gateway.networking.k8s.io/gateway-name: other}, annotations: {note: b}}
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
`
	if err := yaml.UnmarshalStrict([]byte(text), g); err != nil {
		t.Fatal(err)
	}
	return g
}

var mesh = Mesh{Discovery: "https://istiod.mesh.svc:15012", ClusterID: "c1", ClusterDomain: "cluster.local", TrustDomain: "td"}

// settings are those of an installation that says nothing.
func settings(t testing.TB) Settings {
	t.Helper()
	s, err := ParseSettings(`{"image": "example.com/waypoint:v1"}`)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// built is what a Gateway consists of, by kind.
type built struct {
	account    *corev1.ServiceAccount
	service    *corev1.Service
	deployment *appsv1.Deployment
	budget     *policyv1.PodDisruptionBudget
	scaler     *autoscalingv2.HorizontalPodAutoscaler
	all        []kube.Made
}

func mustBuild(t testing.TB, g *gateway.Gateway, s Settings, overlays ...map[string]string) built {
	t.Helper()
	all, err := Build(g, "v1", mesh, s, overlays...)
	if err != nil {
		t.Fatal(err)
	}
	b := built{all: all}
	for _, o := range all {
		switch o := o.(type) {
		case *corev1.ServiceAccount:
			b.account = o
		case *corev1.Service:
			b.service = o
		case *appsv1.Deployment:
			b.deployment = o
		case *policyv1.PodDisruptionBudget:
			b.budget = o
		case *autoscalingv2.HorizontalPodAutoscaler:
			b.scaler = o
		}
	}
	return b
}

func TestEverythingBelongsToTheGateway(t *testing.T) {
	b := mustBuild(t, waypointGateway(t, ""), settings(t))
	if len(b.all) != 5 {
		t.Fatalf("%d objects, want 5", len(b.all))
	}
	for _, o := range b.all {
		owner := metav1.GetControllerOfNoCopy(o)
		if owner == nil || owner.UID != "u-1" || owner.Kind != "Gateway" || owner.APIVersion != "gateway.networking.k8s.io/v1" {
			t.Errorf("%T is owned by %+v", o, owner)
		}
		labels := o.GetLabels()
		if o.GetName() != "wp" || o.GetNamespace() != "shop" || labels["team"] != "a" || o.GetAnnotations()["note"] != "b" || o.GetAnnotations()["plain"] != "" ||
			labels["gateway.networking.k8s.io/gateway-name"] != "wp" || labels["gateway.networking.k8s.io/gateway-class-name"] != "ambit-waypoint" ||
			labels["gateway.istio.io/managed"] != "istio.io-mesh-controller" {
			t.Errorf("%T: %s/%s, labels %v, annotations %v", o, o.GetNamespace(), o.GetName(), labels, o.GetAnnotations())
		}
	}
}

// An instance has no power: whoever takes it over gets what a waypoint has.
func TestAnInstanceHasNoPower(t *testing.T) {
	pod := mustBuild(t, waypointGateway(t, ""), settings(t)).deployment.Spec.Template
	if err := checkPod(&pod.Spec, "wp"); err != nil {
		t.Error(err)
	}
	c := pod.Spec.Containers[0]
	if !*c.SecurityContext.ReadOnlyRootFilesystem || *pod.Spec.SecurityContext.RunAsUser == 0 || pod.Spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%+v %+v", c.SecurityContext, pod.Spec.SecurityContext)
	}
	if pod.Labels["istio.io/dataplane-mode"] != "none" {
		t.Error("an instance is taken into the mesh that it carries")
	}
	token := pod.Spec.Volumes[0].Projected.Sources[0].ServiceAccountToken
	if token.Audience != "istio-ca" || *token.ExpirationSeconds != 43200 {
		t.Errorf("token %+v", token)
	}
}

func TestInstancesEndPolitely(t *testing.T) {
	s := settings(t)
	s.DrainSeconds = 45
	d := mustBuild(t, waypointGateway(t, ""), s).deployment
	grace := *d.Spec.Template.Spec.TerminationGracePeriodSeconds
	if !slices.Contains(d.Spec.Template.Spec.Containers[0].Args, "--drain=45s") || grace <= 45 {
		t.Errorf("args %v, grace %d", d.Spec.Template.Spec.Containers[0].Args, grace)
	}
	r := d.Spec.Strategy.RollingUpdate
	if r.MaxUnavailable.IntValue() != 0 || r.MaxSurge.IntValue() != 1 || d.Spec.MinReadySeconds == 0 {
		t.Errorf("an old instance may end before a new one serves: %+v, %d", r, d.Spec.MinReadySeconds)
	}
}

func TestServiceLooksLikeThoseOfTheEcosystem(t *testing.T) {
	s := mustBuild(t, waypointGateway(t, ""), settings(t)).service
	var ports []string
	for _, p := range s.Spec.Ports {
		ports = append(ports, fmt.Sprintf("%s %d %s", p.Name, p.Port, *p.AppProtocol))
	}
	if got, want := strings.Join(ports, ", "), "status-port 15021 tcp, mesh 15008 hbone"; got != want {
		t.Errorf("ports %s, want %s", got, want)
	}
	if s.Annotations["networking.istio.io/traffic-distribution"] != "PreferClose" || *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyPreferDualStack || s.Spec.Type != corev1.ServiceTypeClusterIP {
		t.Errorf("%v %+v", s.Annotations, s.Spec)
	}
}

func TestAnnotations(t *testing.T) {
	tests := []struct {
		name, annotations, want string
	}{
		{"nothing said", ``, "2 to 10, drain 30"},
		{"a fixed number", `, ambit.dev/waypoint-replicas: "3", ambit.dev/waypoint-max-replicas: "3"`, "3 fixed, drain 30"},
		{"more than the installation's most", `, ambit.dev/waypoint-replicas: "12"`, "12 to 12"},
		{"drain", `, ambit.dev/waypoint-drain: 1m`, "drain 60"},
		{"no number", `, ambit.dev/waypoint-replicas: many`, `error: annotation ambit.dev/waypoint-replicas: "many"`},
		{"more least than most", `, ambit.dev/waypoint-replicas: "5", ambit.dev/waypoint-max-replicas: "4"`, "error: replicas: at most 4"},
		{"no time", `, ambit.dev/waypoint-drain: soon`, `error: annotation ambit.dev/waypoint-drain: "soon"`},
		{"too long", `, ambit.dev/waypoint-drain: 2h`, `error: annotation ambit.dev/waypoint-drain: "2h"`},
		{"a service account that is there", `, gateway.istio.io/service-account: mine`, "account mine, not made"},
		{"another name", `, gateway.istio.io/name-override: other`, "name other, account other"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all, err := Build(waypointGateway(t, tt.annotations), "v1", mesh, settings(t))
			if err != nil {
				if got := "error: " + err.Error(); !strings.Contains(got, tt.want) {
					t.Errorf("%s, want %s", got, tt.want)
				}
				return
			}
			said := summary(all)
			for part := range strings.SplitSeq(tt.want, ", ") {
				if !strings.Contains(said, part) {
					t.Errorf("%s, want %s", said, tt.want)
				}
			}
		})
	}
}

// summary is what a test looks at.
func summary(all []kube.Made) string {
	out := "not made"
	var least, most int32
	for _, o := range all {
		switch o := o.(type) {
		case *corev1.ServiceAccount:
			out = "made"
		case *autoscalingv2.HorizontalPodAutoscaler:
			least, most = *o.Spec.MinReplicas, o.Spec.MaxReplicas
		case *appsv1.Deployment:
			p := o.Spec.Template.Spec
			out += fmt.Sprintf(" name %s account %s drain %d", o.Name, p.ServiceAccountName, *p.TerminationGracePeriodSeconds-graceBeyond)
			if o.Spec.Replicas != nil {
				out += fmt.Sprintf(" %d fixed %d to %d", *o.Spec.Replicas, *o.Spec.Replicas, *o.Spec.Replicas)
			}
		}
	}
	return fmt.Sprintf("%s %d to %d", out, least, most)
}

func TestOverlays(t *testing.T) {
	tests := []struct {
		name, key, text string
		refused         string // what the reason holds; empty: laid over
		check           func(b built) bool
	}{
		{name: "resources", key: "deployment", text: `spec: {template: {spec: {containers: [{name: waypoint, resources: {requests: {cpu: "1"}}}]}}}`,
			check: func(b built) bool {
				return b.deployment.Spec.Template.Spec.Containers[0].Resources.Requests.Cpu().Value() == 1 && len(b.deployment.Spec.Template.Spec.Containers[0].Args) > 0
			}},
		{name: "tolerations and a label", key: "deployment", text: `spec: {template: {metadata: {labels: {x: z}}, spec: {tolerations: [{operator: Exists}]}}}`,
			check: func(b built) bool {
				return b.deployment.Spec.Template.Labels["x"] == "z" && len(b.deployment.Spec.Template.Spec.Tolerations) == 1
			}},
		{name: "it stays the Gateway's", key: "service", text: `metadata: {name: other, namespace: kube-system, ownerReferences: [], labels: {app.kubernetes.io/managed-by: me}}
spec: {selector: {app: bank}}`,
			check: func(b built) bool {
				return b.service.Name == "wp" && b.service.Namespace == "shop" && len(b.service.OwnerReferences) == 1 && b.service.Spec.Selector["app"] == "" &&
					b.service.Labels[MadeByLabel] == MadeBy
			}},
		{name: "autoscaler", key: "horizontalPodAutoscaler", text: `spec: {maxReplicas: 4}`, check: func(b built) bool { return b.scaler.Spec.MaxReplicas == 4 }},
		{name: "budget", key: "podDisruptionBudget", text: `spec: {maxUnavailable: 50%}`, check: func(b built) bool { return b.budget.Spec.MaxUnavailable.String() == "50%" }},
		{name: "account", key: "serviceAccount", text: `metadata: {annotations: {a: b}}`, check: func(b built) bool { return b.account.Annotations["a"] == "b" }},
		{name: "no YAML", key: "service", text: "[", refused: "parameters: service"},
		{name: "another kind of value", key: "deployment", text: "spec: 1", refused: "parameters: deployment"},
		{name: "a field that is none", key: "deployment", text: "spec: {nope: 1}", refused: "nope"},
		{name: "a key that is none", key: "deploymnt", text: "{}", refused: "deploymnt"},
		{name: "the node's network", key: "deployment", text: "spec: {template: {spec: {hostNetwork: true}}}", refused: "hostNetwork"},
		{name: "another account", key: "deployment", text: "spec: {template: {spec: {serviceAccountName: admin}}}", refused: "serviceAccountName"},
		{name: "another account by its old field", key: "deployment", text: "spec: {template: {spec: {serviceAccount: admin}}}", refused: "serviceAccountName"},
		{name: "a token for the API server", key: "deployment", text: "spec: {template: {spec: {automountServiceAccountToken: true}}}", refused: "automountServiceAccountToken"},
		{name: "root", key: "deployment", text: "spec: {template: {spec: {securityContext: {runAsNonRoot: false}}}}", refused: "runAsNonRoot"},
		{name: "a directory of the node", key: "deployment", text: "spec: {template: {spec: {volumes: [{name: h, hostPath: {path: /}}]}}}", refused: "volumes[h]"},
		{name: "nothing at all", key: "deployment", text: "spec:", refused: "serviceAccountName"},
		{name: "no template", key: "deployment", text: "spec: {template: null}", refused: "serviceAccountName"},
		{name: "a Secret", key: "deployment", text: "spec: {template: {spec: {volumes: [{name: s, secret: {secretName: x}}]}}}", refused: "volumes[s]"},
		{name: "a Secret, projected", key: "deployment", text: "spec: {template: {spec: {volumes: [{name: s, projected: {sources: [{secret: {name: x}}]}}]}}}", refused: "volumes[s]"},
		{name: "a privileged container", key: "deployment", text: "spec: {template: {spec: {containers: [{name: x, securityContext: {privileged: true}}]}}}", refused: "privileged"},
		{name: "a container without limits", key: "deployment", text: "spec: {template: {spec: {containers: [{name: x}]}}}", refused: "securityContext"},
		{name: "a first container without limits", key: "deployment", text: "spec: {template: {spec: {initContainers: [{name: x}]}}}", refused: "securityContext"},
		{name: "a capability", key: "deployment", text: "spec: {template: {spec: {containers: [{name: waypoint, securityContext: {capabilities: {add: [NET_ADMIN]}}}]}}}", refused: "capabilities"},
		{name: "a variable from a Secret", key: "deployment", text: "spec: {template: {spec: {containers: [{name: waypoint, env: [{name: A, valueFrom: {secretKeyRef: {name: x, key: y}}}]}]}}}", refused: "env[A]"},
		{name: "variables from a Secret", key: "deployment", text: "spec: {template: {spec: {containers: [{name: waypoint, envFrom: [{secretRef: {name: x}}]}]}}}", refused: "envFrom"},
		{name: "a port of the node", key: "deployment", text: "spec: {template: {spec: {containers: [{name: waypoint, ports: [{containerPort: 15008, protocol: TCP, hostPort: 15008}]}]}}}", refused: "hostPort"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			overlay := map[string]string{tt.key: tt.text}
			if tt.refused == "" {
				if b := mustBuild(t, waypointGateway(t, ""), settings(t), overlay); !tt.check(b) {
					t.Errorf("not laid over as it should: %+v", b)
				}
				return
			}
			_, err := Build(waypointGateway(t, ""), "v1", mesh, settings(t), overlay)
			if err == nil || !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("error %v, want one that names %s", err, tt.refused)
			}
		})
	}
}

// Whatever an overlay says, an instance has no power, and everything is the
// Gateway's.
func FuzzOverlay(f *testing.F) {
	f.Add("spec: {template: {spec: {containers: [{name: waypoint, image: x}]}}}")
	f.Add("spec: {template: {spec: {$patch: replace, containers: []}}}")
	f.Add("metadata: {$patch: delete}")
	f.Add("spec:")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := Build(waypointGateway(t, ""), "v1", mesh, settings(t), map[string]string{"deployment": text, "service": text})
		if err != nil {
			return
		}
		for _, o := range all {
			owner := metav1.GetControllerOfNoCopy(o)
			if owner == nil || owner.UID != "u-1" || o.GetNamespace() != "shop" || o.GetName() != "wp" {
				t.Fatalf("%T is %s/%s, owned by %+v", o, o.GetNamespace(), o.GetName(), owner)
			}
			if d, ok := o.(*appsv1.Deployment); ok {
				if err := checkPod(&d.Spec.Template.Spec, "wp"); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func TestParseSettings(t *testing.T) {
	tests := []struct{ name, text, refused string }{
		{"all", `{"image":"x","pullPolicy":"Always","pullSecrets":["a"],"replicas":3,"maxReplicas":3,"resources":{"requests":{"cpu":"1"}},"env":{"A":"b"}}`, ""},
		{"no image", `{}`, "image"},
		{"a field that is none", `{"image":"x","replica":1}`, "replica"},
		{"no JSON", `image: x`, "waypoint settings"},
		{"too many", `{"image":"x","replicas":2000}`, "replicas"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseSettings(tt.text)
			if tt.refused == "" && err != nil || tt.refused != "" && (err == nil || !strings.Contains(err.Error(), tt.refused)) {
				t.Errorf("error %v, want %q", err, tt.refused)
			}
		})
	}
}
