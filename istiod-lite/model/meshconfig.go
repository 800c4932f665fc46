package model

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	mesh "istio.io/api/mesh/v1alpha1"
	api "istio.io/api/security/v1beta1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
)

// The configuration of the mesh, in the place where the ambient ecosystem keeps it:
// this key of this ConfigMap of the root namespace. Only extensionProviders is read.
const (
	MeshConfigMap = "istio"
	meshKey       = "mesh"
)

// meshConfig is what is read of it. The zero meshConfig is that of a mesh without
// one.
type meshConfig struct {
	providers []*waypointapi.Provider
	err       error // why it is not read; then there are no providers
}

// applyMesh takes the configuration in, or its absence, and marks the policies that
// ask providers.
func (m *Model) applyMesh(e Event, d dirty) {
	if e.Key.Namespace != m.cfg.RootNamespace || e.Key.Name != MeshConfigMap {
		return
	}
	m.mesh = meshConfig{}
	if object, _ := e.Object.(*corev1.ConfigMap); object != nil {
		m.mesh.providers, m.mesh.err = readMesh(object)
	}
	d.add(e.Key)
	for namespace, s := range m.spaces {
		for name, p := range s.policies {
			if p.Spec.Action == api.AuthorizationPolicy_CUSTOM {
				d.add(Key{KindAuthorizationPolicy, namespace, name})
			}
		}
	}
}

// fromMesh are the providers.
func (m *Model) fromMesh() []*Resource {
	var all []*Resource
	for _, p := range m.mesh.providers {
		all = append(all, waypointResource(TypeWaypointProvider, WaypointProviderURL, p.Name, p, nil, m.needsOfHost(p.Service)))
	}
	return all
}

// unknownProvider says why nobody can be asked under a name; "" when somebody can.
func (m *Model) unknownProvider(name string) string {
	if m.mesh.err != nil {
		return fmt.Sprintf("ConfigMap %s/%s cannot be read: %v", m.cfg.RootNamespace, MeshConfigMap, m.mesh.err)
	}
	i := slices.IndexFunc(m.mesh.providers, func(p *waypointapi.Provider) bool { return p.Name == name })
	switch {
	case i < 0:
		return fmt.Sprintf("provider %q is not among the extensionProviders of ConfigMap %s/%s (key %s)", name, m.cfg.RootNamespace, MeshConfigMap, meshKey)
	case m.mesh.providers[i].Broken != "":
		return fmt.Sprintf("provider %q: %s", name, m.mesh.providers[i].Broken)
	}
	return ""
}

// readMesh reads the providers. Fields that are not known here are for others.
func readMesh(o *corev1.ConfigMap) ([]*waypointapi.Provider, error) {
	text, there := o.Data[meshKey]
	if !there {
		return nil, nil
	}
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return nil, err
	}
	var cfg mesh.MeshConfig
	if string(raw) != "null" {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, &cfg); err != nil {
			return nil, err
		}
	}
	found := map[string]*waypointapi.Provider{}
	for i, p := range cfg.GetExtensionProviders() {
		out := provider(p)
		switch {
		case out == nil: // of traces, metrics and the like
		case out.Name == "":
			return nil, fmt.Errorf("extensionProviders[%d].name is missing", i)
		case found[out.Name] != nil:
			return nil, fmt.Errorf("extensionProviders[%d].name: %q is there twice", i, out.Name)
		default:
			found[out.Name] = out
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *waypointapi.Provider) int { return cmp.Compare(a.Name, b.Name) }), nil
}

// provider translates one that decides about requests; nil for others.
func provider(p *mesh.MeshConfig_ExtensionProvider) *waypointapi.Provider {
	out := &waypointapi.Provider{Name: p.GetName()}
	var status string
	switch x := p.GetProvider().(type) {
	case *mesh.MeshConfig_ExtensionProvider_EnvoyExtAuthzGrpc:
		g := x.EnvoyExtAuthzGrpc
		out.Service, out.Port, out.Timeout, out.FailOpen = g.GetService(), g.GetPort(), g.GetTimeout(), g.GetFailOpen()
		out.Body, status = bodyInCheck(g.GetIncludeRequestBodyInCheck()), g.GetStatusOnError()
	case *mesh.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp:
		h := x.EnvoyExtAuthzHttp
		out.Service, out.Port, out.Timeout, out.FailOpen = h.GetService(), h.GetPort(), h.GetTimeout(), h.GetFailOpen()
		out.Body, status = bodyInCheck(h.GetIncludeRequestBodyInCheck()), h.GetStatusOnError()
		include := h.GetIncludeRequestHeadersInCheck()
		if len(include) == 0 {
			//lint:ignore SA1019 its older name, which users still write
			include = h.GetIncludeHeadersInCheck()
		}
		out.Http = &waypointapi.HttpCheck{
			PathPrefix: h.GetPathPrefix(), IncludeHeaders: include, AdditionalHeaders: h.GetIncludeAdditionalHeadersInCheck(),
			UpstreamOnAllow: h.GetHeadersToUpstreamOnAllow(), DownstreamOnAllow: h.GetHeadersToDownstreamOnAllow(),
			DownstreamOnDeny: h.GetHeadersToDownstreamOnDeny(),
		}
	default:
		return nil
	}
	if err := checkProvider(out, status); err != nil {
		out.Broken = err.Error()
	}
	return out
}

// bodyInCheck translates how much of a body is shown.
func bodyInCheck(b *mesh.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody) *waypointapi.BodyInCheck {
	if b.GetMaxRequestBytes() == 0 {
		return nil
	}
	return &waypointapi.BodyInCheck{MaxBytes: b.GetMaxRequestBytes(), Partial: b.GetAllowPartialMessage(), Raw: b.GetPackAsBytes()}
}

// checkProvider says why a provider cannot be asked, and reads its status.
func checkProvider(p *waypointapi.Provider, status string) error {
	if p.Service == "" {
		return errors.New("service is missing")
	}
	if p.Port == 0 || p.Port > 65535 {
		return fmt.Errorf("port is %d", p.Port)
	}
	if status != "" {
		n, err := strconv.ParseUint(status, 10, 32)
		if err != nil || n < 400 || n > 599 {
			return fmt.Errorf("statusOnError: want a status from 400 to 599, not %q", status)
		}
		p.StatusOnError = uint32(n)
	}
	return nil
}

// meshConfig checks the configuration of the mesh; other ConfigMaps say nothing here.
func (c *checker) meshConfig(o *corev1.ConfigMap) {
	if o.Name != MeshConfigMap {
		return
	}
	providers, err := readMesh(o)
	c.check("data."+meshKey, err)
	for _, p := range providers {
		if p.Broken != "" {
			c.add("data."+meshKey, "extension provider %q: %s", p.Name, p.Broken)
		}
	}
}
