package model_test

import (
	"strings"
	"testing"

	api "istio.io/api/security/v1beta1"
	security "istio.io/client-go/pkg/apis/security/v1"

	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// specOf is the specification of an AuthorizationPolicy.
func specOf(o model.Object) *api.AuthorizationPolicy { return &o.(*security.AuthorizationPolicy).Spec }

// pod writes a pod web of namespace shop with address and, unless status says
// otherwise, Ready.
func pod(metadata, spec, status string) string {
	if status == "" {
		status = `{podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}`
	}
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop" + metadata + "}\nspec: {containers: [{name: c, image: c}]" + spec + "}\nstatus: " + status + "\n"
}

// Protocol notes 7.7 and 4.5: one field after the other.
func TestWorkloadOfAPod(t *testing.T) {
	const node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}\n---\n"
	ready := `, conditions: [{type: Ready, status: "True"}]}`
	tests := []struct {
		name string
		cfg  model.Config
		pod  string
		want func(*workloadapi.Workload) bool
	}{
		{name: "not Ready: unhealthy", pod: pod("", "", "{podIP: 10.0.0.1}"), want: func(w *workloadapi.Workload) bool { return w.Status == workloadapi.WorkloadStatus_UNHEALTHY }},
		{name: "Ready is False: unhealthy", pod: pod("", "", `{podIP: 10.0.0.1, conditions: [{type: Ready, status: "False"}]}`), want: func(w *workloadapi.Workload) bool { return w.Status == workloadapi.WorkloadStatus_UNHEALTHY }},
		{name: "Ready: healthy", pod: pod("", "", ""), want: func(w *workloadapi.Workload) bool { return w.Status == workloadapi.WorkloadStatus_HEALTHY }},
		{name: "terminating: unhealthy though Ready", pod: pod(`, deletionTimestamp: "2026-01-01T00:00:00Z"`, "", ""), want: func(w *workloadapi.Workload) bool { return w.Status == workloadapi.WorkloadStatus_UNHEALTHY }},
		{name: "not redirected: no tunnel", pod: pod("", "", ""), want: func(w *workloadapi.Workload) bool { return w.TunnelProtocol == workloadapi.TunnelProtocol_NONE }},
		{name: "redirection enabled: HBONE", pod: pod(", annotations: {ambient.istio.io/redirection: enabled}", "", ""), want: func(w *workloadapi.Workload) bool {
			return w.TunnelProtocol == workloadapi.TunnelProtocol_HBONE && !w.NativeTunnel
		}},
		{name: "redirection pending: no tunnel yet", pod: pod(", annotations: {ambient.istio.io/redirection: pending}", "", ""), want: func(w *workloadapi.Workload) bool { return w.TunnelProtocol == workloadapi.TunnelProtocol_NONE }},
		{name: "speaks HBONE itself", pod: pod(", labels: {networking.istio.io/tunnel: http}", "", ""), want: func(w *workloadapi.Workload) bool {
			return w.TunnelProtocol == workloadapi.TunnelProtocol_HBONE && w.NativeTunnel
		}},
		{name: "host network", pod: pod("", ", hostNetwork: true", ""), want: func(w *workloadapi.Workload) bool {
			return w.NetworkMode == workloadapi.NetworkMode_HOST_NETWORK
		}},
		{name: "usual trust domain is left empty", pod: pod("", "", ""), want: func(w *workloadapi.Workload) bool { return w.TrustDomain == "" }},
		{name: "another trust domain", cfg: model.Config{TrustDomain: "td"}, pod: pod("", "", ""), want: func(w *workloadapi.Workload) bool { return w.TrustDomain == "td" }},
		{name: "type is always POD", pod: pod("", "", ""), want: func(w *workloadapi.Workload) bool { return w.WorkloadType == workloadapi.WorkloadType_POD }},
		{name: "locality of the node", pod: node + pod("", ", nodeName: n1", ""), want: func(w *workloadapi.Workload) bool {
			return w.Node == "n1" && w.Locality.GetRegion() == "r" && w.Locality.GetZone() == "z"
		}},
		{name: "unknown node: no locality", pod: pod("", ", nodeName: n2", ""), want: func(w *workloadapi.Workload) bool { return w.Node == "n2" && w.Locality == nil }},
		{name: "all addresses", pod: pod("", "", `{podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]`+ready), want: func(w *workloadapi.Workload) bool {
			return len(w.Addresses) == 2 && len(w.Addresses[0]) == 4 && len(w.Addresses[1]) == 16
		}},
		{name: "an IPv4 address in IPv6 clothes is 4 bytes", pod: pod("", "", `{podIP: "::ffff:10.0.0.1"`+ready), want: func(w *workloadapi.Workload) bool {
			return len(w.Addresses[0]) == 4
		}},
		{name: "network", cfg: model.Config{Network: "east"}, pod: pod("", "", ""), want: func(w *workloadapi.Workload) bool { return w.Network == "east" }},
		{name: "service account as written", pod: pod("", ", serviceAccountName: sa", ""), want: func(w *workloadapi.Workload) bool { return w.ServiceAccount == "sa" }},
		{name: "names: nobody owns it", pod: pod("", "", ""), want: named("web", "web", "latest")},
		{name: "names: Deployment", pod: pod(`, labels: {pod-template-hash: "5d"}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: shop-5d, uid: u, controller: true}]`, "", ""), want: named("shop", "shop", "latest")},
		{name: "names: CronJob", pod: pod(`, ownerReferences: [{apiVersion: batch/v1, kind: Job, name: clean-28000000, uid: u, controller: true}]`, "", ""), want: named("clean", "clean", "latest")},
		{name: "names: StatefulSet", pod: pod(`, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, uid: u, controller: true}]`, "", ""), want: named("db", "db", "latest")},
		{name: "names: labels win", pod: pod(`, labels: {service.istio.io/canonical-name: cn, app: a, service.istio.io/workload-name: wn, version: v1}`, "", ""), want: named("wn", "cn", "v1")},
		{name: "names: app.kubernetes.io before app", pod: pod(`, labels: {app.kubernetes.io/name: kn, app: a, app.kubernetes.io/version: kv, version: v1}`, "", ""), want: named("web", "kn", "kv")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if w := mustWorkload(t, mustModel(t, tt.cfg, tt.pod), "shop/web"); !tt.want(w) {
				t.Errorf("workload is %v", w)
			}
		})
	}
}

// named asks for names of metrics.
func named(workload, name, revision string) func(*workloadapi.Workload) bool {
	return func(w *workloadapi.Workload) bool {
		return w.WorkloadName == workload && w.CanonicalName == name && w.CanonicalRevision == revision
	}
}

func TestPodThatIsNoWorkload(t *testing.T) {
	for name, text := range map[string]string{
		"no address": pod("", "", "{phase: Pending}"),
		"succeeded":  pod("", "", "{phase: Succeeded, podIP: 10.0.0.1}"),
		"failed":     pod("", "", "{phase: Failed, podIP: 10.0.0.1}"),
	} {
		if got := names(mustModel(t, model.Config{}, text)); len(got) > 0 {
			t.Errorf("%s: resources %v", name, got)
		}
	}
}

// Addresses that others share do not name a workload.
func TestHostNetworkHasNoAliases(t *testing.T) {
	m := mustModel(t, model.Config{}, pod("", ", hostNetwork: true", ""))
	if aliases := m.Resources()[0].Wire.Aliases; len(aliases) > 0 {
		t.Errorf("aliases %v", aliases)
	}
}

// service writes a Service web of namespace shop.
func service(metadata, spec string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop" + metadata + "}\nspec: {" + spec + "}\n"
}

const webKey = "shop/web.shop.svc.cluster.local"

// Protocol notes 7.6 and 4.4.
func TestServiceOfAService(t *testing.T) {
	lb := func(scopes, mode, health string) func(*workloadapi.Service) bool {
		return func(s *workloadapi.Service) bool {
			var names []string
			for _, scope := range s.LoadBalancing.GetRoutingPreference() {
				names = append(names, scope.String())
			}
			return strings.Join(names, " ") == scopes && s.LoadBalancing.GetMode().String() == mode && s.LoadBalancing.GetHealthPolicy().String() == health
		}
	}
	const zone = "NETWORK REGION ZONE"
	ns := "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {networking.istio.io/traffic-distribution: PreferSameNode}}\n---\n"
	tests := []struct {
		name string
		text string
		want func(*workloadapi.Service) bool
	}{
		{name: "virtual addresses", text: service("", `clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00::1"]`), want: func(s *workloadapi.Service) bool { return len(s.Addresses) == 2 && s.Canonical }},
		{name: "clusterIP alone", text: service("", "clusterIP: 10.96.0.1"), want: func(s *workloadapi.Service) bool { return len(s.Addresses) == 1 }},
		{name: "headless: no addresses", text: service("", "clusterIP: None, clusterIPs: [None]"), want: func(s *workloadapi.Service) bool { return len(s.Addresses) == 0 }},
		{name: "named target: 0", text: service("", "ports: [{port: 80, targetPort: http}]"), want: func(s *workloadapi.Service) bool { return s.Ports[0].TargetPort == 0 }},
		{name: "no target: the port itself", text: service("", "ports: [{port: 80}]"), want: func(s *workloadapi.Service) bool { return s.Ports[0].TargetPort == 80 }},
		{name: "only TCP", text: service("", "ports: [{name: a, port: 53, protocol: UDP}, {name: b, port: 53, targetPort: 5353}]"), want: func(s *workloadapi.Service) bool {
			return len(s.Ports) == 1 && s.Ports[0].TargetPort == 5353
		}},
		{name: "protocol by name of the port", text: service("", "ports: [{name: grpc-api, port: 80}]"), want: func(s *workloadapi.Service) bool { return s.Ports[0].AppProtocol == workloadapi.AppProtocol_GRPC }},
		{name: "appProtocol before the name", text: service("", "ports: [{name: grpc-api, port: 80, appProtocol: kubernetes.io/h2c}]"), want: func(s *workloadapi.Service) bool { return s.Ports[0].AppProtocol == workloadapi.AppProtocol_HTTP2 }},
		{name: "no preference", text: service("", ""), want: func(s *workloadapi.Service) bool { return s.LoadBalancing == nil }},
		{name: "internalTrafficPolicy Local", text: service("", "internalTrafficPolicy: Local"), want: lb("NODE", "STRICT", "ONLY_HEALTHY")},
		{name: "internalTrafficPolicy before trafficDistribution", text: service("", "internalTrafficPolicy: Local, trafficDistribution: PreferClose"), want: lb("NODE", "STRICT", "ONLY_HEALTHY")},
		{name: "PreferClose", text: service("", "trafficDistribution: PreferClose"), want: lb(zone, "FAILOVER", "ONLY_HEALTHY")},
		{name: "PreferSameZone", text: service("", "trafficDistribution: PreferSameZone"), want: lb(zone, "FAILOVER", "ONLY_HEALTHY")},
		{name: "PreferSameNode", text: service("", "trafficDistribution: PreferSameNode"), want: lb(zone+" SUBZONE NODE", "FAILOVER", "ONLY_HEALTHY")},
		{name: "annotation, whatever its case", text: service(", annotations: {networking.istio.io/traffic-distribution: preferclose}", ""), want: lb(zone, "FAILOVER", "ONLY_HEALTHY")},
		{name: "annotation of the namespace", text: ns + service("", ""), want: lb(zone+" SUBZONE NODE", "FAILOVER", "ONLY_HEALTHY")},
		{name: "own annotation before the namespace's", text: ns + service(", annotations: {networking.istio.io/traffic-distribution: PreferClose}", ""), want: lb(zone, "FAILOVER", "ONLY_HEALTHY")},
		{name: "specification before annotations", text: ns + service(", annotations: {networking.istio.io/traffic-distribution: PreferSameNode}", "trafficDistribution: PreferClose"), want: lb(zone, "FAILOVER", "ONLY_HEALTHY")},
		{name: "publishNotReadyAddresses", text: service("", "publishNotReadyAddresses: true"), want: lb("", "UNSPECIFIED_MODE", "ALLOW_ALL")},
		{name: "publishNotReadyAddresses and a preference", text: service("", "publishNotReadyAddresses: true, trafficDistribution: PreferClose"), want: lb(zone, "FAILOVER", "ALLOW_ALL")},
		{name: "IPv4 only", text: service("", "ipFamilies: [IPv4]"), want: func(s *workloadapi.Service) bool { return s.IpFamilies == workloadapi.IPFamilies_IPV4_ONLY }},
		{name: "IPv6 only", text: service("", "ipFamilies: [IPv6]"), want: func(s *workloadapi.Service) bool { return s.IpFamilies == workloadapi.IPFamilies_IPV6_ONLY }},
		{name: "both families", text: service("", "ipFamilies: [IPv6, IPv4]"), want: func(s *workloadapi.Service) bool { return s.IpFamilies == workloadapi.IPFamilies_DUAL }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if s := mustService(t, mustModel(t, model.Config{}, tt.text), webKey); !tt.want(s) {
				t.Errorf("service is %v", s)
			}
		})
	}
}

func TestExternalNameIsNotServed(t *testing.T) {
	m := mustModel(t, model.Config{}, service("", "type: ExternalName, externalName: example.com, selector: {app: web}"), webPod)
	if got := strings.Join(names(m), " "); got != "Kubernetes//Pod/shop/web" {
		t.Errorf("resources are %s", got)
	}
	if w := mustWorkload(t, m, "shop/web"); len(w.Services) > 0 {
		t.Errorf("the pod backs %v", w.Services)
	}
}

func TestUnknownTrafficDistributionIsSaid(t *testing.T) {
	m := mustModel(t, model.Config{}, service("", "trafficDistribution: PreferFar"))
	for _, all := range m.Conditions() {
		if strings.Contains(all[0].Message, `spec.trafficDistribution: "PreferFar"`) {
			return
		}
	}
	t.Errorf("conditions are %v", m.Conditions())
}

// Protocol notes 7.7: which services a pod backs, with which ports.
func TestServicesOfAPod(t *testing.T) {
	selected := func(ports string) string { return service("", "selector: {app: web}, ports: ["+ports+"]") }
	sliceOf := func(uid string) string {
		return "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web" + uid + "}}]\n"
	}
	labels := ", labels: {app: web}"
	port := func(extra string) string {
		return strings.Replace(pod(labels, "", ""), "image: c}", "image: c, ports: [{name: http, containerPort: 8080"+extra+"}]}", 1)
	}
	tests := []struct {
		name    string
		objects []string
		want    string // service=port>target,... of each service
	}{
		{name: "selector matches", objects: []string{selected("{port: 80, targetPort: 8080}"), pod(labels, "", "")}, want: webKey + "=80>8080"},
		{name: "selector does not match", objects: []string{selected("{port: 80}"), pod("", "", "")}},
		{name: "no selector selects nothing", objects: []string{service("", "ports: [{port: 80}]"), pod(labels, "", "")}},
		{name: "selector of another namespace", objects: []string{strings.Replace(selected("{port: 80}"), "namespace: shop", "namespace: other", 1), pod(labels, "", "")}},
		{name: "named target port", objects: []string{selected("{port: 80, targetPort: http}"), port("")}, want: webKey + "=80>8080"},
		{name: "named target port of UDP is another", objects: []string{selected("{port: 80, targetPort: http}"), port(", protocol: UDP")}, want: webKey + "="},
		{name: "unknown name: that port is left out", objects: []string{selected("{name: a, port: 80, targetPort: nope}, {name: b, port: 81}"), pod(labels, "", "")}, want: webKey + "=81>81"},
		{name: "named port of an init container that stays", objects: []string{selected("{port: 80, targetPort: side}"),
			pod(labels, ", initContainers: [{name: s, image: s, restartPolicy: Always, ports: [{name: side, containerPort: 7000}]}]", "")}, want: webKey + "=80>7000"},
		{name: "not of one that ends", objects: []string{selected("{port: 80, targetPort: side}"),
			pod(labels, ", initContainers: [{name: s, image: s, ports: [{name: side, containerPort: 7000}]}]", "")}, want: webKey + "="},
		{name: "slice of a service without selector", objects: []string{service("", "ports: [{port: 80}]"), pod("", "", ""), sliceOf("")}, want: webKey + "=80>80"},
		{name: "slice of a service with one: the selector decides", objects: []string{selected("{port: 80}"), pod("", "", ""), sliceOf("")}},
		{name: "slice that means an earlier pod of the name", objects: []string{service("", "ports: [{port: 80}]"), pod(", uid: new", "", ""), sliceOf(", uid: old")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := mustWorkload(t, mustModel(t, model.Config{}, tt.objects...), "shop/web")
			var got []string
			for key, list := range w.Services {
				var ports []string
				for _, p := range list.Ports {
					ports = append(ports, itoa(p.ServicePort)+">"+itoa(p.TargetPort))
				}
				got = append(got, key+"="+strings.Join(ports, ","))
			}
			if text := strings.Join(got, " "); text != tt.want {
				t.Errorf("services are %q, want %q", text, tt.want)
			}
		})
	}
}
