package model

import (
	"fmt"
	"net/netip"
	"strings"

	api "istio.io/api/networking/v1alpha3"
	securityv1 "istio.io/api/security/v1beta1"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// policy checks an AuthorizationPolicy: a value that proxies would drop in
// silence is refused here with its place.
func (c *checker) policy(p *security.AuthorizationPolicy) {
	c.labels("spec.selector.matchLabels", p.Spec.GetSelector().GetMatchLabels())
	if p.Spec.GetSelector() != nil && hasTargets(&p.Spec) {
		c.add("spec.selector", "stands beside targetRefs: want one of them")
	}
	if p.Spec.GetAction() == securityv1.AuthorizationPolicy_DENY && len(p.Spec.GetRules()) == 0 {
		c.add("spec.rules", "missing: a DENY policy without rules denies nothing; to deny everything write one empty rule: [{}]")
	}
	if _, err := dryRunOf(p); err != nil {
		c.check("metadata.annotations.istio.io/dry-run", err)
	}
	for i, rule := range p.Spec.GetRules() {
		at := fmt.Sprintf("spec.rules[%d]", i)
		for j, from := range rule.GetFrom() {
			c.source(fmt.Sprintf("%s.from[%d].source", at, j), from.GetSource())
		}
		for j, to := range rule.GetTo() {
			c.operation(fmt.Sprintf("%s.to[%d].operation", at, j), to.GetOperation())
		}
		for j, when := range rule.GetWhen() {
			c.when(fmt.Sprintf("%s.when[%d]", at, j), when)
		}
	}
}

// source checks who asks.
func (c *checker) source(path string, s *securityv1.Source) {
	lists := []struct {
		name   string
		values []string
		check  func(string) error
	}{
		{"principals", s.GetPrincipals(), checkPrincipal},
		{"notPrincipals", s.GetNotPrincipals(), checkPrincipal},
		{"requestPrincipals", s.GetRequestPrincipals(), checkPattern},
		{"notRequestPrincipals", s.GetNotRequestPrincipals(), checkPattern},
		{"namespaces", s.GetNamespaces(), checkName},
		{"notNamespaces", s.GetNotNamespaces(), checkName},
		{"serviceAccounts", s.GetServiceAccounts(), checkAccount},
		{"notServiceAccounts", s.GetNotServiceAccounts(), checkAccount},
		{"ipBlocks", s.GetIpBlocks(), checkPrefix},
		{"notIpBlocks", s.GetNotIpBlocks(), checkPrefix},
		{"remoteIpBlocks", s.GetRemoteIpBlocks(), checkPrefix},
		{"notRemoteIpBlocks", s.GetNotRemoteIpBlocks(), checkPrefix},
	}
	values := 0
	for _, list := range lists {
		c.each(path+"."+list.name, list.values, list.check)
		values += len(list.values)
	}
	if values == 0 {
		c.add(path, "says nothing about the source: leave out from to match every source")
	}
}

// operation checks what a connection is for.
func (c *checker) operation(path string, o *securityv1.Operation) {
	c.each(path+".ports", o.GetPorts(), checkPort)
	c.each(path+".notPorts", o.GetNotPorts(), checkPort)
	values := len(o.GetPorts()) + len(o.GetNotPorts())
	for _, list := range [][]string{o.GetHosts(), o.GetNotHosts(), o.GetMethods(), o.GetNotMethods(), o.GetPaths(), o.GetNotPaths()} {
		c.each(path, list, checkPattern)
		values += len(list)
	}
	if values == 0 {
		c.add(path, "says nothing about the operation: leave out to to match every operation")
	}
}

// whenKeys are the attributes that a condition may ask for. Those that end in [
// are followed by a name and ].
var whenKeys = []string{
	"source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port",
	"remote.ip", "connection.sni", "request.headers[", "request.auth.principal", "request.auth.audiences",
	"request.auth.presenter", "request.auth.claims[", "experimental.envoy.filters.",
}

// when checks a condition.
func (c *checker) when(path string, w *securityv1.Condition) {
	known := false
	for _, key := range whenKeys {
		open := strings.HasSuffix(key, "[") || strings.HasSuffix(key, ".")
		known = known || w.GetKey() == key || open && strings.HasPrefix(w.GetKey(), key)
	}
	if !known {
		c.add(path+".key", "%q is no attribute of a connection or request", w.GetKey())
	}
	if len(w.GetValues())+len(w.GetNotValues()) == 0 {
		c.add(path, "values and notValues are both missing")
	}
	check := checkPattern
	switch w.GetKey() {
	case "source.ip", "destination.ip", "remote.ip":
		check = checkPrefix
	case "destination.port":
		check = checkPort
	case "source.principal":
		check = checkPrincipal
	case "source.namespace":
		check = checkName
	}
	c.each(path+".values", w.GetValues(), check)
	c.each(path+".notValues", w.GetNotValues(), check)
}

// each checks every value of a list.
func (c *checker) each(path string, values []string, check func(string) error) {
	for i, value := range values {
		c.check(fmt.Sprintf("%s[%d]", path, i), check(value))
	}
}

// checkPattern accepts a value with a star at one end, or alone.
func checkPattern(text string) error {
	if text == "" {
		return errEmpty
	}
	return nil
}

// checkName accepts a value with a star at one end, or alone. A star elsewhere
// would be compared as a star, and so match nothing: a DENY policy would let
// everybody in.
func checkName(text string) error {
	if err := checkPattern(text); err != nil || text == "*" {
		return err
	}
	rest := strings.TrimPrefix(text, "*")
	if rest == text {
		rest = strings.TrimSuffix(text, "*")
	}
	if strings.Contains(rest, "*") {
		return fmt.Errorf("want one star, at the beginning or at the end, not %q", text)
	}
	return nil
}

// checkPrincipal accepts a name of an identity as policies write it. With its
// scheme it would match nothing.
func checkPrincipal(text string) error {
	if rest, ok := strings.CutPrefix(text, "spiffe://"); ok {
		return fmt.Errorf("want an identity without its scheme: %q", rest)
	}
	return checkName(text)
}

// checkAccount accepts a name, or namespace/name.
func checkAccount(text string) error {
	namespace, name, found := strings.Cut(text, "/")
	if !found {
		namespace, name = "default", text
	}
	if len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return fmt.Errorf("want name or namespace/name, not %q", text)
	}
	return nil
}

// checkPrefix accepts an address or a prefix.
func checkPrefix(text string) error {
	_, err := parsePrefix(text)
	return err
}

// checkPort accepts a port number.
func checkPort(text string) error {
	_, err := parsePort(text)
	return err
}

// peerAuthentication checks a PeerAuthentication.
func (c *checker) peerAuthentication(p *security.PeerAuthentication) {
	c.labels("spec.selector.matchLabels", selectorOf(p))
	if len(p.Spec.GetPortLevelMtls()) > 0 && len(selectorOf(p)) == 0 {
		c.add("spec.portLevelMtls", "needs a selector: modes of ports are those of certain workloads")
	}
	for port := range p.Spec.GetPortLevelMtls() {
		c.port(fmt.Sprintf("spec.portLevelMtls.%d", port), int64(port))
	}
}

// workloadEntry checks an entry, or an inline endpoint.
func (c *checker) workloadEntry(path string, e *api.WorkloadEntry) {
	if _, err := netip.ParseAddr(e.GetAddress()); err == nil {
		c.address(path+".address", e.GetAddress())
	} else {
		c.rules(path+".address", e.GetAddress(), validation.IsDNS1123Subdomain)
	}
	for name, port := range e.GetPorts() {
		c.port(path+".ports."+name, int64(port))
	}
	c.labels(path+".labels", e.GetLabels())
}

// serviceEntry checks hosts, addresses, ports and endpoints.
func (c *checker) serviceEntry(e *networking.ServiceEntry) {
	if len(e.Spec.GetHosts()) == 0 {
		c.check("spec.hosts", errEmpty)
	}
	for i, host := range e.Spec.GetHosts() {
		c.rules(fmt.Sprintf("spec.hosts[%d]", i), strings.TrimPrefix(host, "*."), validation.IsDNS1123Subdomain)
	}
	c.each("spec.addresses", e.Spec.GetAddresses(), checkPrefix)
	for i, p := range e.Spec.GetPorts() {
		c.port(fmt.Sprintf("spec.ports[%d].number", i), int64(p.GetNumber()))
		if p.GetTargetPort() != 0 {
			c.port(fmt.Sprintf("spec.ports[%d].targetPort", i), int64(p.GetTargetPort()))
		}
	}
	if len(e.Spec.GetEndpoints()) > 0 && e.Spec.GetWorkloadSelector() != nil {
		c.add("spec.workloadSelector", "stands beside endpoints: want one of them")
	}
	for i, endpoint := range e.Spec.GetEndpoints() {
		c.workloadEntry(fmt.Sprintf("spec.endpoints[%d]", i), endpoint)
	}
}
