package agent

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/cni/redirect"
)

// Labels and annotations of the ambient ecosystem.
const (
	modeLabel         = "istio.io/dataplane-mode"
	modeAmbient       = "ambient"
	modeNone          = "none"
	bypassAnnotation  = "ambient.istio.io/bypass-inbound-capture"
	dnsAnnotation     = "ambient.istio.io/dns-capture"
	virtualAnnotation = "istio.io/reroute-virtual-interfaces"
)

// openLabel of a namespace, with the value openValue, says that its pods go on
// outside of the mesh when they cannot be taken in. Without it they are fenced.
const (
	openLabel = "ambit.dev/on-enrolment-failure"
	openValue = "open"
)

// sidecars are annotations that injectors of other meshes leave on pods with a
// proxy of their own.
func sidecars() []string {
	return []string{"sidecar.istio.io/status", "linkerd.io/proxy-version", "kuma.io/sidecar-injected", "consul.hashicorp.com/connect-inject-status"}
}

// decide says whether p belongs to the mesh, and why.
func decide(p Pod, excluded []string) (enrol bool, reason string) {
	mode, labelled := p.Labels[modeLabel]
	switch {
	case p.HostNetwork:
		return false, "it uses the network of its node"
	case p.Terminal:
		return false, "it has ended"
	case slices.Contains(excluded, p.Namespace):
		return false, "namespace " + p.Namespace + " is excluded"
	case slices.ContainsFunc(sidecars(), func(key string) bool { return hasKey(p.Annotations, key) }):
		return false, "it has the sidecar of a mesh"
	case mode == modeAmbient:
		return true, "pod label " + modeLabel + "=" + modeAmbient
	case mode == modeNone:
		return false, "pod label " + modeLabel + "=" + modeNone
	case p.NamespaceLabels[modeLabel] == modeAmbient:
		return true, "namespace label " + modeLabel + "=" + modeAmbient
	case labelled:
		return false, fmt.Sprintf("pod label %s=%s asks for something else", modeLabel, mode)
	}
	return false, "neither it nor its namespace has the label " + modeLabel + "=" + modeAmbient
}

// hasKey says whether m has key.
func hasKey(m map[string]string, key string) bool {
	_, ok := m[key]
	return ok
}

// DNSCapture says which pods' DNS questions go to ztunnel.
type DNSCapture string

// The values of DNSCapture.
const (
	DNSNever DNSCapture = "never" // none: this node's ztunnel does not answer them
	DNSOff   DNSCapture = "off"   // those of pods that ask for it by annotation
	DNSOn    DNSCapture = "on"    // all but those of pods that refuse by annotation
)

// redirection reads from p's annotations how it is captured. A value that cannot
// be read counts as not given, which captures, and is named in notes.
func redirection(p Pod, dns DNSCapture) (cfg redirect.Config, notes []string) {
	flag := func(name string, otherwise bool) bool {
		text, ok := p.Annotations[name]
		if !ok {
			return otherwise
		}
		v, err := strconv.ParseBool(text)
		if err != nil {
			notes = append(notes, fmt.Sprintf("annotation %s=%q has no effect: want true or false", name, text))
			return otherwise
		}
		return v
	}
	cfg.BypassInbound = flag(bypassAnnotation, false)
	cfg.DNS = flag(dnsAnnotation, dns == DNSOn)
	if cfg.DNS && dns == DNSNever {
		cfg.DNS = false
		notes = append(notes, "annotation "+dnsAnnotation+" has no effect: this node's ztunnel answers no DNS questions")
	}
	for name := range strings.SplitSeq(p.Annotations[virtualAnnotation], ",") {
		if name = strings.TrimSpace(name); name != "" {
			cfg.VirtualInterfaces = append(cfg.VirtualInterfaces, name)
		}
	}
	return cfg, notes
}
