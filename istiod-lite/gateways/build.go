package gateways

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"istio.io/api/annotation"
	"istio.io/api/label"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Labels of what is made. The first three are those that tools of the ambient
// ecosystem look for.
const (
	managedLabel = "gateway.istio.io/managed"
	managedValue = "istio.io-mesh-controller"

	// PartOfLabel and PartOf are on everything of ours.
	PartOfLabel, PartOf = "app.kubernetes.io/part-of", "ambit"
	// MadeByLabel and MadeBy are on everything that this package makes.
	MadeByLabel, MadeBy = "app.kubernetes.io/managed-by", "istiod-lite"
)

// Selector finds everything that this package makes.
const Selector = PartOfLabel + "=" + PartOf + "," + MadeByLabel + "=" + MadeBy

// Ports of a waypoint beside that for tunnels.
const (
	statsPort = 15020
	readyPort = 15021
)

const (
	// nobody is the uid and gid of a waypoint, which needs no privilege.
	nobody = 65532
	// tokenTime is how long the token holds by which a waypoint proves who it is.
	tokenTime = 12 * time.Hour
	// graceBeyond is how much longer than requests may go on a pod may take to end.
	graceBeyond = 10
	// settled is how long a new instance must be Ready before an old one ends: by
	// then every node has heard of it.
	settled = 2
	// calm is how long the load must have been low before instances end.
	calm = 300
)

// Mesh is what waypoints must know of the mesh.
type Mesh struct {
	// Discovery is the control plane: https://host:port.
	Discovery string
	// ClusterID, ClusterDomain, TrustDomain and Network are those of all proxies.
	ClusterID, ClusterDomain, TrustDomain, Network string
}

// builder makes the objects of one Gateway.
type builder struct {
	g       *gateway.Gateway
	version string // of the Gateway's API
	mesh    Mesh
	s       Settings
	name    string
}

// Build is what a Gateway consists of, in the order in which it is applied. version
// is that of the Gateway's API. overlays are ConfigMaps that are laid over it.
func Build(g *gateway.Gateway, version string, mesh Mesh, s Settings, overlays ...map[string]string) ([]kube.Made, error) {
	s, err := s.of(g)
	if err != nil {
		return nil, err
	}
	b := builder{g: g, version: version, mesh: mesh, s: s, name: model.WaypointName(g)}
	if len(b.name) > 63 || len(g.Name) > 63 {
		return nil, fmt.Errorf("metadata.name: %q has more than 63 characters, the most that a label can carry", g.Name)
	}
	var all []kube.Made
	if g.Annotations[annotation.GatewayServiceAccount.Name] == "" { // else it is somebody else's
		all = append(all, b.account())
	}
	all = append(all, b.service(), b.deployment(), b.budget())
	if s.MaxReplicas > s.Replicas {
		all = append(all, b.autoscaler())
	}
	for i, o := range all {
		for _, overlay := range overlays {
			if all[i], err = lay(o, overlay); err != nil {
				return nil, err
			}
			o = all[i]
		}
	}
	return all, checkKeys(overlays)
}

// meta is the metadata of everything that is made.
func (b *builder) meta(name string) metav1.ObjectMeta {
	controller := true
	m := metav1.ObjectMeta{
		Name: name, Namespace: b.g.Namespace, Labels: b.labels(), Annotations: b.annotations(),
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: gateway.GroupName + "/" + b.version, Kind: "Gateway", Name: b.g.Name, UID: b.g.UID, Controller: &controller,
		}},
	}
	return m
}

// labels are those that the Gateway wants of what is made, and ours.
func (b *builder) labels() map[string]string {
	all := map[string]string{}
	if i := b.g.Spec.Infrastructure; i != nil {
		for k, v := range i.Labels {
			all[string(k)] = string(v)
		}
	}
	maps.Copy(all, map[string]string{
		label.IoK8sNetworkingGatewayGatewayName.Name:   b.g.Name,
		"gateway.networking.k8s.io/gateway-class-name": string(b.g.Spec.GatewayClassName),
		managedLabel: managedValue, PartOfLabel: PartOf, MadeByLabel: MadeBy,
	})
	return all
}

// annotations are those that the Gateway wants of what is made.
func (b *builder) annotations() map[string]string {
	if b.g.Spec.Infrastructure == nil || len(b.g.Spec.Infrastructure.Annotations) == 0 {
		return nil
	}
	all := map[string]string{}
	for k, v := range b.g.Spec.Infrastructure.Annotations {
		all[string(k)] = string(v)
	}
	return all
}

// selector finds the instances.
func (b *builder) selector() map[string]string {
	return map[string]string{label.IoK8sNetworkingGatewayGatewayName.Name: b.g.Name}
}

// account is who the waypoint runs as: nobody to the API server.
func (b *builder) account() *corev1.ServiceAccount {
	no := false
	return &corev1.ServiceAccount{ObjectMeta: b.meta(b.name), AutomountServiceAccountToken: &no}
}

// service is where node proxies find the instances.
func (b *builder) service() *corev1.Service {
	m := b.meta(b.name)
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	if m.Annotations[annotation.NetworkingTrafficDistribution.Name] == "" {
		m.Annotations[annotation.NetworkingTrafficDistribution.Name] = "PreferClose"
	}
	tcp, hbone := "tcp", "hbone"
	dual := corev1.IPFamilyPolicyPreferDualStack
	ports := []corev1.ServicePort{{Name: "status-port", Port: readyPort, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(readyPort), AppProtocol: &tcp}}
	for _, l := range b.g.Spec.Listeners {
		ports = append(ports, corev1.ServicePort{
			Name: string(l.Name), Port: int32(l.Port), Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(int32(l.Port)), AppProtocol: &hbone,
		})
	}
	return &corev1.Service{ObjectMeta: m, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, IPFamilyPolicy: &dual, Selector: b.selector(), Ports: ports,
	}}
}

// budget lets nodes be emptied one instance at a time.
func (b *builder) budget() *policyv1.PodDisruptionBudget {
	one := intstr.FromInt32(1)
	return &policyv1.PodDisruptionBudget{ObjectMeta: b.meta(b.name), Spec: policyv1.PodDisruptionBudgetSpec{
		MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: b.selector()},
	}}
}

// autoscaler adds instances at once and takes them away slowly: ends of instances
// cost clients a new connection, and load that has gone often comes back.
func (b *builder) autoscaler() *autoscalingv2.HorizontalPodAutoscaler {
	least, at, atOnce, slowly := b.s.Replicas, b.s.CPUUtilization, int32(0), int32(calm)
	fastest := autoscalingv2.MaxChangePolicySelect
	return &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: b.meta(b.name), Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: b.name},
		MinReplicas:    &least,
		MaxReplicas:    b.s.MaxReplicas,
		Metrics: []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &at},
			},
		}},
		Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
			ScaleUp: &autoscalingv2.HPAScalingRules{
				StabilizationWindowSeconds: &atOnce, SelectPolicy: &fastest,
				Policies: []autoscalingv2.HPAScalingPolicy{
					{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
					{Type: autoscalingv2.PodsScalingPolicy, Value: 2, PeriodSeconds: 15},
				},
			},
			ScaleDown: &autoscalingv2.HPAScalingRules{
				StabilizationWindowSeconds: &slowly,
				Policies:                   []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 1, PeriodSeconds: 60}},
			},
		},
	}}
}

// deployment runs the instances. With an autoscaler it does not say how many.
func (b *builder) deployment() *appsv1.Deployment {
	none, one := intstr.FromInt32(0), intstr.FromInt32(1)
	d := &appsv1.Deployment{ObjectMeta: b.meta(b.name), Spec: appsv1.DeploymentSpec{
		MinReadySeconds: settled,
		Selector:        &metav1.LabelSelector{MatchLabels: b.selector()},
		Strategy: appsv1.DeploymentStrategy{
			Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &none},
		},
		Template: corev1.PodTemplateSpec{ObjectMeta: b.podMeta(), Spec: b.podSpec()},
	}}
	if b.s.MaxReplicas == b.s.Replicas {
		d.Spec.Replicas = &b.s.Replicas
	}
	return d
}

// podMeta is the metadata of instances.
func (b *builder) podMeta() metav1.ObjectMeta {
	m := metav1.ObjectMeta{Labels: b.labels(), Annotations: b.annotations()}
	maps.Copy(m.Labels, map[string]string{
		"istio.io/dataplane-mode":             "none", // it carries the mesh, it is not in it
		"sidecar.istio.io/inject":             "false",
		"service.istio.io/canonical-name":     b.name,
		"service.istio.io/canonical-revision": "latest",
	})
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	maps.Copy(m.Annotations, map[string]string{
		"prometheus.io/scrape": "true", "prometheus.io/port": strconv.Itoa(statsPort), "prometheus.io/path": "/stats/prometheus",
	})
	return m
}

// podSpec is one instance.
func (b *builder) podSpec() corev1.PodSpec {
	yes, no := true, false
	user, grace := int64(nobody), int64(b.s.DrainSeconds+graceBeyond)
	spec := corev1.PodSpec{
		ServiceAccountName:            model.WaypointAccount(b.g),
		AutomountServiceAccountToken:  &no,
		EnableServiceLinks:            &no,
		TerminationGracePeriodSeconds: &grace,
		NodeSelector:                  map[string]string{corev1.LabelOSStable: "linux"},
		Tolerations:                   b.s.Tolerations,
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user,
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{b.spread(corev1.LabelTopologyZone), b.spread(corev1.LabelHostname)},
		Containers:                []corev1.Container{b.container()},
		Volumes:                   b.volumes(),
	}
	maps.Copy(spec.NodeSelector, b.s.NodeSelector)
	for _, name := range b.s.PullSecrets {
		spec.ImagePullSecrets = append(spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	return spec
}

// spread keeps the instances of one version apart, as far as there is room.
func (b *builder) spread(by string) corev1.TopologySpreadConstraint {
	return corev1.TopologySpreadConstraint{
		MaxSkew: 1, TopologyKey: by, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: &metav1.LabelSelector{MatchLabels: b.selector()}, MatchLabelKeys: []string{appsv1.DefaultDeploymentUniqueLabelKey},
	}
}

// container is the program.
func (b *builder) container() corev1.Container {
	yes, no := true, false
	resources := b.s.Resources
	if len(resources.Requests) == 0 {
		resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	}
	return corev1.Container{
		Name: "waypoint", Image: b.s.Image, ImagePullPolicy: b.s.PullPolicy,
		Args: []string{
			"--gateway=" + b.g.Name,
			"--xds-address=" + b.mesh.Discovery,
			"--cluster-id=" + b.mesh.ClusterID,
			"--cluster-domain=" + b.mesh.ClusterDomain,
			"--trust-domain=" + b.mesh.TrustDomain,
			"--network=" + b.mesh.Network,
			fmt.Sprintf("--drain=%ds", b.s.DrainSeconds),
			"--log-level=" + b.s.LogLevel,
			"--log-format=" + b.s.LogFormat,
		},
		Env:       b.env(),
		Resources: resources,
		Ports: []corev1.ContainerPort{
			{Name: "hbone", ContainerPort: model.WaypointPort, Protocol: corev1.ProtocolTCP},
			{Name: "http-metrics", ContainerPort: statsPort, Protocol: corev1.ProtocolTCP},
			{Name: "http-ready", ContainerPort: readyPort, Protocol: corev1.ProtocolTCP},
		},
		// The first picture may be large, and the control plane may start only now.
		StartupProbe:   probe("/healthz/ready", 1, 600),
		ReadinessProbe: probe("/healthz/ready", 2, 2),
		LivenessProbe:  probe("/healthz/live", 10, 6),
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, Privileged: &no,
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "token", MountPath: "/var/run/secrets/tokens", ReadOnly: true},
			{Name: "root", MountPath: "/var/run/secrets/istio", ReadOnly: true},
		},
	}
}

// probe asks the program over HTTP.
func probe(path string, period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(readyPort), Scheme: corev1.URISchemeHTTP}},
		PeriodSeconds: period, FailureThreshold: failures, TimeoutSeconds: 1, SuccessThreshold: 1,
	}
}

// env says which pod this is, and what else the installation wants to say.
func (b *builder) env() []corev1.EnvVar {
	var all []corev1.EnvVar
	for _, f := range []struct{ name, path string }{
		{"POD_NAME", "metadata.name"}, {"POD_NAMESPACE", "metadata.namespace"}, {"INSTANCE_IP", "status.podIP"},
		{"NODE_NAME", "spec.nodeName"}, {"SERVICE_ACCOUNT", "spec.serviceAccountName"},
	} {
		all = append(all, corev1.EnvVar{Name: f.name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: f.path}}})
	}
	for _, name := range slices.Sorted(maps.Keys(b.s.Env)) {
		all = append(all, corev1.EnvVar{Name: name, Value: b.s.Env[name]})
	}
	return all
}

// volumes are the token that proves who this is, and what the control plane's
// certificate leads to.
func (b *builder) volumes() []corev1.Volume {
	seconds := int64(tokenTime.Seconds())
	return []corev1.Volume{
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
			ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "istio-token", Audience: "istio-ca", ExpirationSeconds: &seconds},
		}}}}},
		{Name: "root", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "istio-ca-root-cert"},
		}}},
	}
}

// newReader reads text.
func newReader(text string) *strings.Reader { return strings.NewReader(text) }
