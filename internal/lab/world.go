package lab

import (
	"maps"
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// Ports of services and of the programs behind them; see labapp.
const (
	ServicePort = 80
	HTTPPort    = labapp.HTTPPort
)

// PodSpec says which pod to start.
type PodSpec struct {
	Namespace      string
	Name           string
	App            string
	ServiceAccount string
	Node           int // counted from 1

	// MeshLabel is the pod's own dataplane-mode: "ambient", "none", or empty for
	// what its namespace says.
	MeshLabel string

	// Bare means that no program runs in the pod.
	Bare bool
}

// Service is a ClusterIP service of the lab.
type Service struct {
	Namespace string
	Name      string
	App       string
	Address   netip.Addr
}

// AddrPort is where clients call the service.
func (s *Service) AddrPort() netip.AddrPort { return netip.AddrPortFrom(s.Address, ServicePort) }

// meshNamespaces are the namespaces of the lab, and whether their pods are in
// the mesh.
func meshNamespaces() map[string]bool {
	return map[string]bool{"shop": true, "books": true, "bank": true, "outside": false}
}

// meshPods are the pods of the lab, in the order in which they start.
func meshPods() []PodSpec {
	return []PodSpec{
		{Namespace: "shop", Name: "web", App: "web", ServiceAccount: "web", Node: 1},
		{Namespace: "shop", Name: "cart", App: "cart", ServiceAccount: "cart", Node: 2},
		{Namespace: "books", Name: "api-1", App: "api", ServiceAccount: "api", Node: 1},
		{Namespace: "books", Name: "api-2", App: "api", ServiceAccount: "api", Node: 2},
		{Namespace: "books", Name: "api-3", App: "api", ServiceAccount: "api", Node: 2},
		{Namespace: "bank", Name: "teller", App: "teller", ServiceAccount: "teller", Node: 1},
		{Namespace: "bank", Name: "ledger", App: "ledger", ServiceAccount: "ledger", Node: 2},
		{Namespace: "outside", Name: "visitor", App: "visitor", ServiceAccount: "visitor", Node: 1},
	}
}

// meshServices are the services of the lab.
func meshServices() []*Service {
	return []*Service{
		{Namespace: "books", Name: "api", App: "api", Address: serviceAddr(10)},
		{Namespace: "bank", Name: "ledger", App: "ledger", Address: serviceAddr(20)},
	}
}

// writeCluster writes the manifests of what has no namespace, with the labels that
// namespaces have been given.
func (l *Lab) writeCluster() error {
	var docs []any
	for _, name := range []string{"shop", "books", "bank", "outside"} {
		ns := namespaceManifest(name, meshNamespaces()[name])
		maps.Copy(ns.Labels, l.spaceLabels[name])
		docs = append(docs, ns)
	}
	for _, n := range l.nodes {
		docs = append(docs, nodeManifest(n))
	}
	return l.manifests.Apply("cluster", docs...)
}

// LabelNamespace sets a label of a namespace; an empty value takes it away.
func (l *Lab) LabelNamespace(namespace, key, value string) error {
	if l.spaceLabels == nil {
		l.spaceLabels = map[string]map[string]string{}
	}
	if l.spaceLabels[namespace] == nil {
		l.spaceLabels[namespace] = map[string]string{}
	}
	if l.spaceLabels[namespace][key] = value; value == "" {
		delete(l.spaceLabels[namespace], key)
	}
	return l.writeCluster()
}

// writeWorld writes the manifests that do not depend on running pods.
func (l *Lab) writeWorld() error {
	if err := l.writeCluster(); err != nil {
		return err
	}
	var docs []any
	seen := map[[2]string]bool{}
	for _, p := range meshPods() {
		if key := [2]string{p.Namespace, p.ServiceAccount}; !seen[key] {
			seen[key] = true
			docs = append(docs, serviceAccountManifest(p.Namespace, p.ServiceAccount))
		}
	}
	if err := l.manifests.Apply("service-accounts", docs...); err != nil {
		return err
	}
	docs = nil
	l.services = meshServices()
	for _, s := range l.services {
		docs = append(docs, serviceManifest(s))
	}
	return l.manifests.Apply("services", docs...)
}
