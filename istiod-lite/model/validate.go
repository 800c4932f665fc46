package model

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"istio.io/api/annotation"
)

// FieldError is what is wrong with one field of an object.
type FieldError struct {
	Path string // such as spec.ports[0].port
	Err  error  // never nil
}

// Error is "path: reason".
func (e *FieldError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap makes errors.Is and errors.As see the reason.
func (e *FieldError) Unwrap() error { return e.Err }

// Validate says what is wrong with an object, in the order of its fields. It is
// as strict as an API server about what the model reads, and says nothing about
// the rest.
func Validate(kind Kind, o Object) []*FieldError {
	c := &checker{}
	c.name(kind, o)
	switch o := o.(type) {
	case *corev1.Pod:
		c.pod(o)
	case *corev1.Service:
		c.service(o)
	case *discoveryapi.EndpointSlice:
		c.slice(o)
	case *security.AuthorizationPolicy:
		c.policy(o)
	case *security.PeerAuthentication:
		c.peerAuthentication(o)
	case *security.RequestAuthentication:
		c.requestAuthentication(o)
	case *corev1.ConfigMap:
		c.meshConfig(o)
	case *networking.WorkloadEntry:
		c.workloadEntry("spec", &o.Spec)
	case *networking.ServiceEntry:
		c.serviceEntry(o)
	case *ServiceProfile:
		c.serviceProfile(o)
	case *RateLimit:
		c.rateLimit(o)
	}
	return c.found
}

// checker collects what is wrong.
type checker struct{ found []*FieldError }

// add notes one complaint.
func (c *checker) add(path, format string, args ...any) {
	c.found = append(c.found, &FieldError{Path: path, Err: fmt.Errorf(format, args...)})
}

// check notes err, if there is one.
func (c *checker) check(path string, err error) {
	if err != nil {
		c.found = append(c.found, &FieldError{Path: path, Err: err})
	}
}

// rules notes what a validation function of Kubernetes says.
func (c *checker) rules(path, value string, rule func(string) []string) {
	if problems := rule(value); len(problems) > 0 {
		c.add(path, "%q: %s", value, problems[0])
	}
}

// name checks metadata: names become parts of resource names, identities and
// host names.
func (c *checker) name(kind Kind, o Object) {
	rule := validation.IsDNS1123Subdomain
	switch kind {
	case KindService:
		rule = validation.IsDNS1035Label
	case KindNamespace:
		rule = validation.IsDNS1123Label
	}
	c.rules("metadata.name", o.GetName(), rule)
	if kind.ClusterScoped() {
		if o.GetNamespace() != "" {
			c.add("metadata.namespace", "a %s stands in no namespace", kind)
		}
	} else {
		c.rules("metadata.namespace", o.GetNamespace(), validation.IsDNS1123Label)
	}
	c.labels("metadata.labels", o.GetLabels())
}

// labels checks keys and values of labels or of a selector.
func (c *checker) labels(path string, labels map[string]string) {
	for key, value := range labels {
		c.rules(path+"."+key, key, validation.IsQualifiedName)
		c.rules(path+"."+key, value, validation.IsValidLabelValue)
	}
}

// port checks a number.
func (c *checker) port(path string, port int64) {
	if port < 1 || port > 65535 {
		c.add(path, "want a port from 1 to 65535, not %d", port)
	}
}

// oneOf checks a word.
func oneOf[T ~string](c *checker, path string, value T, allowed ...T) {
	var words []string
	for _, word := range allowed {
		if value == word {
			return
		}
		words = append(words, string(word))
	}
	c.add(path, "want one of %s, not %q", strings.Join(words, ", "), string(value))
}

// address checks an IP address.
func (c *checker) address(path, text string) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		c.add(path, "want an IP address, not %q", text)
	case addr.Zone() != "":
		c.add(path, "an address with a zone (%s) means something on one machine only", text)
	case addr.IsUnspecified() || addr.IsMulticast():
		c.add(path, "%s is not the address of one endpoint", text)
	}
}

// pod checks what becomes part of a workload.
func (c *checker) pod(p *corev1.Pod) {
	if p.Spec.NodeName != "" {
		c.rules("spec.nodeName", p.Spec.NodeName, validation.IsDNS1123Subdomain)
	}
	c.rules("spec.serviceAccountName", AccountOf(p), validation.IsDNS1123Subdomain)
	c.containers("spec.initContainers", p.Spec.InitContainers)
	c.containers("spec.containers", p.Spec.Containers)
	if p.Status.Phase != "" {
		oneOf(c, "status.phase", p.Status.Phase, corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown)
	}
	if p.Status.PodIP != "" {
		c.address("status.podIP", p.Status.PodIP)
	}
	for i, ip := range p.Status.PodIPs {
		c.address(fmt.Sprintf("status.podIPs[%d].ip", i), ip.IP)
	}
	if state, ok := p.Annotations[annotation.AmbientRedirection.Name]; ok {
		oneOf(c, "metadata.annotations."+annotation.AmbientRedirection.Name, state, "enabled", "pending", "disabled")
	}
}

// containers checks ports: services name them.
func (c *checker) containers(path string, all []corev1.Container) {
	for i, container := range all {
		for j, port := range container.Ports {
			at := fmt.Sprintf("%s[%d].ports[%d]", path, i, j)
			c.port(at+".containerPort", int64(port.ContainerPort))
			if port.Name != "" {
				c.rules(at+".name", port.Name, validation.IsValidPortName)
			}
			oneOf(c, at+".protocol", cmp.Or(port.Protocol, corev1.ProtocolTCP), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		}
	}
}

// service checks addresses and ports.
func (c *checker) service(s *corev1.Service) {
	oneOf(c, "spec.type", cmp.Or(s.Spec.Type, corev1.ServiceTypeClusterIP),
		corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	c.labels("spec.selector", s.Spec.Selector)
	if ip := s.Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
		c.address("spec.clusterIP", ip)
	}
	for i, ip := range s.Spec.ClusterIPs {
		if ip != corev1.ClusterIPNone {
			c.address(fmt.Sprintf("spec.clusterIPs[%d]", i), ip)
		}
	}
	names, numbers := map[string]int{}, map[string]int{}
	for i, p := range s.Spec.Ports {
		at := fmt.Sprintf("spec.ports[%d]", i)
		protocol := cmp.Or(p.Protocol, corev1.ProtocolTCP)
		c.port(at+".port", int64(p.Port))
		oneOf(c, at+".protocol", protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if p.TargetPort.StrVal != "" {
			c.rules(at+".targetPort", p.TargetPort.StrVal, validation.IsValidPortName)
		} else if p.TargetPort.IntVal != 0 {
			c.port(at+".targetPort", int64(p.TargetPort.IntVal))
		}
		c.unique(at+".name", "port name", p.Name, i, names)
		c.unique(at+".port", "port", fmt.Sprintf("%d/%s", p.Port, protocol), i, numbers)
		if len(s.Spec.Ports) > 1 && p.Name == "" {
			c.add(at+".name", "missing: a service with several ports names each")
		}
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil {
		oneOf(c, "spec.internalTrafficPolicy", *p, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	}
	for i, family := range s.Spec.IPFamilies {
		oneOf(c, fmt.Sprintf("spec.ipFamilies[%d]", i), family, corev1.IPv4Protocol, corev1.IPv6Protocol)
	}
}

// unique checks that no earlier element has the value.
func (c *checker) unique(path, what, value string, i int, seen map[string]int) {
	if first, found := seen[value]; found {
		if value != "" {
			c.add(path, "%s %s is that of element %d too", what, value, first)
		}
		return
	}
	seen[value] = i
}

// slice checks addresses and ports.
func (c *checker) slice(es *discoveryapi.EndpointSlice) {
	oneOf(c, "addressType", es.AddressType, discoveryapi.AddressTypeIPv4, discoveryapi.AddressTypeIPv6, discoveryapi.AddressTypeFQDN)
	for i, e := range es.Endpoints {
		at := fmt.Sprintf("endpoints[%d]", i)
		if len(e.Addresses) == 0 {
			c.add(at+".addresses", "missing: an endpoint has at least one address")
		}
		for j, text := range e.Addresses {
			if es.AddressType != discoveryapi.AddressTypeFQDN {
				c.sliceAddress(fmt.Sprintf("%s.addresses[%d]", at, j), text, es.AddressType)
			}
		}
	}
	for i, p := range es.Ports {
		if p.Port != nil {
			c.port(fmt.Sprintf("ports[%d].port", i), int64(*p.Port))
		}
	}
}

// sliceAddress checks an address and its family.
func (c *checker) sliceAddress(path, text string, family discoveryapi.AddressType) {
	before := len(c.found)
	c.address(path, text)
	if len(c.found) > before {
		return
	}
	if addr := netip.MustParseAddr(text); addr.Is4() != (family == discoveryapi.AddressTypeIPv4) {
		c.add(path, "%s is not an address of type %s", text, family)
	}
}

// errEmpty is the complaint about a value that is missing.
var errEmpty = errors.New("missing")
