package model_test

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/istiod-lite/files"
)

// A malformed object is refused with file, line, object, field and reason.
func TestMalformedObjectsAreRefusedWithTheirPlace(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"name with an underscore, which is that of made policies", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: istio_converted_static_strict, namespace: shop}\nspec: {}\n",
			`test.yaml:3: AuthorizationPolicy shop/istio_converted_static_strict: metadata.name: "istio_converted_static_strict": a lowercase RFC 1123 subdomain`},
		{"namespace of a Node", "apiVersion: v1\nkind: Node\nmetadata: {name: n1, namespace: shop}\n", "test.yaml:3: Node shop/n1: metadata.namespace: a Node stands in no namespace"},
		{"label", pod(", labels: {app: 'a b'}", "", ""), `test.yaml:3: Pod shop/web: metadata.labels.app: "a b": a valid label`},
		{"address", pod("", "", "{podIP: 10.0.0.256}"), `test.yaml:5: Pod shop/web: status.podIP: want an IP address, not "10.0.0.256"`},
		{"address with a zone", pod("", "", "{podIP: 'fe80::1%eth0'}"), "status.podIP: an address with a zone"},
		{"multicast", pod("", "", "{podIP: 224.0.0.1}"), "224.0.0.1 is not the address of one endpoint"},
		{"phase", pod("", "", "{phase: Runing}"), `status.phase: want one of Pending, Running, Succeeded, Failed, Unknown, not "Runing"`},
		{"redirection", pod(", annotations: {ambient.istio.io/redirection: 'yes'}", "", ""), `test.yaml:3: Pod shop/web: metadata.annotations.ambient.istio.io/redirection: want one of`},
		{"service account", pod("", ", serviceAccountName: A", ""), `spec.serviceAccountName: "A"`},
		{"port of a container", strings.Replace(pod("", "", ""), "image: c}", "ports: [{containerPort: 0}]}", 1), "test.yaml:4: Pod shop/web: spec.containers[0].ports[0].containerPort: want a port from 1 to 65535, not 0"},
		{"port of a service", service("", "ports: [{port: 65536}]"), "test.yaml:4: Service shop/web: spec.ports[0].port: want a port from 1 to 65535, not 65536"},
		{"two ports of one name", service("", "ports: [{name: a, port: 1}, {name: a, port: 2}]"), "spec.ports[1].name: port name a is that of element 0 too"},
		{"several ports without names", service("", "ports: [{port: 1}, {port: 2}]"), "spec.ports[0].name: missing"},
		{"clusterIP", service("", "clusterIP: nope"), `spec.clusterIP: want an IP address, not "nope"`},
		{"type of service", service("", "type: Cluster"), `spec.type: want one of ClusterIP`},
		{"family of a slice's address", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv6\nendpoints:\n- addresses:\n  - 10.0.0.1\n",
			"test.yaml:7: EndpointSlice s: endpoints[0].addresses[0]: 10.0.0.1 is not an address of type IPv6"},
		{"port of a policy", policy("{rules: [{to: [{operation: {ports: [http]}}]}]}"), `test.yaml:4: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.ports[0]: want a port from 1 to 65535, not "http"`},
		{"prefix of a policy", policy("\n  rules:\n  - from:\n    - source:\n        ipBlocks:\n        - 10.0.0.0/33\n"), `test.yaml:9: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.ipBlocks[0]: want an address or a prefix such as 10.0.0.0/8, not "10.0.0.0/33"`},
		{"unknown attribute", policy("{rules: [{when: [{key: source.ipp, values: [a]}]}]}"), `spec.rules[0].when[0].key: "source.ipp" is no attribute`},
		{"condition without values", policy("{rules: [{when: [{key: source.ip}]}]}"), "spec.rules[0].when[0]: values and notValues are both missing"},
		{"empty source", policy("{rules: [{from: [{source: {}}]}]}"), "spec.rules[0].from[0].source: says nothing about the source"},
		{"principal with its scheme", policy("{rules: [{from: [{source: {notPrincipals: ['spiffe://td/ns/a/sa/b']}}]}]}"), `source.notPrincipals[0]: want an identity without its scheme: "td/ns/a/sa/b"`},
		{"principal of a condition with its scheme", policy("{rules: [{when: [{key: source.principal, values: ['spiffe://td/ns/a/sa/b']}]}]}"), `spec.rules[0].when[0].values[0]: want an identity without its scheme`},
		{"star in the middle of a principal", policy("{rules: [{from: [{source: {principals: ['*/ns/*/sa/b']}}]}]}"), `source.principals[0]: want one star, at the beginning or at the end, not "*/ns/*/sa/b"`},
		{"star at both ends of a namespace", policy("{rules: [{from: [{source: {namespaces: ['*a*']}}]}]}"), `source.namespaces[0]: want one star`},
		{"star in the middle of a condition's namespace", policy("{rules: [{when: [{key: source.namespace, notValues: ['a*b']}]}]}"), `notValues[0]: want one star`},
		{"DENY without rules", policy("{action: DENY}"), "spec.rules: missing: a DENY policy without rules denies nothing"},
		{"selector and targetRefs", policy("{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: x}]}"), "spec.selector: stands beside targetRefs"},
		{"unknown action", policy("{action: FORBID}"), `spec.action: invalid value for enum field action: "FORBID"`},
		{"unknown field of a policy", policy("{rule: []}"), `spec.rule: unknown field "rule"`},
		{"dry run", strings.Replace(policy("{}"), "namespace: shop", "namespace: shop, annotations: {istio.io/dry-run: maybe}", 1), `metadata.annotations.istio.io/dry-run: want true or false, not "maybe"`},
		{"ports without selector", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec:\n  portLevelMtls:\n    80: {mode: STRICT}\n", "test.yaml:5: PeerAuthentication p: spec.portLevelMtls: needs a selector"},
		{"unknown mode", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec:\n  mtls:\n    mode: STRICKT\n", `test.yaml:6: PeerAuthentication p: spec.mtls.mode: invalid value for enum field mode: "STRICKT"`},
		{"version that is not served", "apiVersion: security.istio.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n", `test.yaml:1: AuthorizationPolicy p: apiVersion: "security.istio.io/v1alpha1" is not served for AuthorizationPolicy: want version v1 or v1beta1`},
		{"host of a ServiceEntry", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec: {hosts: ['a_b']}\n", `spec.hosts[0]: "a_b"`},
		{"address of a WorkloadEntry", "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w}\nspec: {address: ''}\n", `spec.address: ""`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := files.Decode("test.yaml", []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Decode says\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}

// Manifests that users already have, as they are.
func TestOrdinaryManifestsAreAccepted(t *testing.T) {
	for name, text := range map[string]string{
		"everything is refused by an empty spec": policy("{}"),
		"a star alone, in front, behind":         policy("{rules: [{from: [{source: {principals: ['*', '*/sa/b', 'td/ns/a/*'], namespaces: ['*', 'a*']}}]}]}"),
		"no spec at all":                         "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\n",
		"what kubectl prints": "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(
			pod(`, uid: u, resourceVersion: "7", managedFields: [{manager: kubectl, operation: Apply}]`, ", tolerations: [{key: a, operator: Exists}]", "")), "\n", "\n  ") + "\n",
		"status that others wrote": policy("{}") + "status: {conditions: [{type: ZtunnelAccepted}]}\n",
	} {
		if events, err := files.Decode("test.yaml", []byte(text)); err != nil || len(events) != 1 {
			t.Errorf("%s: %d objects, %v", name, len(events), err)
		}
	}
}
