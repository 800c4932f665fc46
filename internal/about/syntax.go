package about

import (
	"net/netip"
	"strings"

	"github.com/ambit-mesh/ambit/internal/workload"
)

// Names of the headers that proxies add to a CONNECT request.
const (
	HeaderForwarded = "forwarded"
	HeaderBaggage   = "baggage"
	// HeaderNetwork names the sender's network on a stream that crossed one.
	HeaderNetwork = "x-forwarded-network"
)

// Forwarded says on whose behalf a tunnel stream was opened.
type Forwarded struct {
	For  netip.AddrPort // the client; invalid when the header does not say
	Host string         // the service that the client called, or ""
}

// String is the header value. Source: RFC 7239, section 4.
func (f Forwarded) String() string {
	out := make([]byte, 0, maxName+80) // what most need; on the stack
	if f.For.IsValid() {
		out = append(out, `for="`...)
		out = f.For.AppendTo(out)
		out = append(out, '"')
	}
	if f.Host != "" && isToken(f.Host) {
		if len(out) > 0 {
			out = append(out, ';')
		}
		out = append(append(out, "host="...), f.Host...)
	}
	return string(out)
}

// ParseForwarded reads the first element of the header: pairs in any order, with
// or without quotes. What it does not understand it leaves out.
func ParseForwarded(value string) Forwarded {
	var f Forwarded
	element, _ := cutUnquoted(value, ',')
	for rest := element; rest != ""; {
		var pair string
		pair, rest = cutUnquoted(rest, ';')
		name, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok {
			continue
		}
		v = unquote(v)
		switch {
		case strings.EqualFold(name, "for") && !f.For.IsValid():
			if ap, err := netip.ParseAddrPort(v); err == nil && ap.Addr().Zone() == "" {
				f.For = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
			}
		case strings.EqualFold(name, "host") && f.Host == "" && isToken(v) && len(v) <= maxName:
			f.Host = strings.Clone(v)
		}
	}
	return f
}

// cutUnquoted cuts s at the first sep that is not between quotes.
func cutUnquoted(s string, sep byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case quoted && s[i] == '\\':
			i++ // the next byte is meant as it is
		case !quoted && s[i] == sep:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// unquote takes the quotes off a value, if it has them.
func unquote(s string) string {
	s = strings.TrimSpace(s)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	return s
}

// isToken reports whether s can stand in a header without quotes: visible ASCII
// without separators. Host names with a port are taken as well.
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`",;=\`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// Baggage is what one proxy tells the other about a workload. It is for records
// only: nothing in it is proven.
type Baggage struct {
	Cluster        string
	Namespace      string
	WorkloadType   workload.Type
	WorkloadName   string
	ServiceName    string // canonical name
	ServiceVersion string // canonical revision
	Region         string
	Zone           string
}

// Keys of baggage, in the order in which they are written. Between namespace and
// service name stands k8s.<type>.name.
const (
	baggageCluster   = "k8s.cluster.name"
	baggageNamespace = "k8s.namespace.name"
	baggageService   = "service.name"
	baggageVersion   = "service.version"
	baggageRegion    = "cloud.region"
	baggageZone      = "cloud.availability_zone"
)

// BaggageOf describes w.
func BaggageOf(w *workload.Workload) Baggage {
	return Baggage{
		Cluster:        w.ClusterID,
		Namespace:      w.Namespace,
		WorkloadType:   w.Type,
		WorkloadName:   w.WorkloadName,
		ServiceName:    w.CanonicalName,
		ServiceVersion: w.CanonicalRevision,
		Region:         w.Locality.Region,
		Zone:           w.Locality.Zone,
	}
}

// String is the header value. Empty values, and those that cannot stand in a
// header, are left out. Source: W3C Baggage, section 3.2.
func (b Baggage) String() string {
	out := make([]byte, 0, 256) // what most need; on the stack
	add := func(key, value string) {
		if !isToken(value) {
			return
		}
		if len(out) > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), '='), value...)
	}
	add(baggageCluster, b.Cluster)
	add(baggageNamespace, b.Namespace)
	add(baggageWorkload(b.WorkloadType), b.WorkloadName)
	add(baggageService, b.ServiceName)
	add(baggageVersion, b.ServiceVersion)
	add(baggageRegion, b.Region)
	add(baggageZone, b.Zone)
	return string(out)
}

// baggageWorkload is the key of a workload's name, which names its type as well.
func baggageWorkload(t workload.Type) string {
	switch t {
	case workload.TypeCronJob:
		return "k8s.cronjob.name"
	case workload.TypePod:
		return "k8s.pod.name"
	case workload.TypeJob:
		return "k8s.job.name"
	case workload.TypeDeployment:
	}
	return "k8s.deployment.name"
}

// maxName is the most bytes of a name that a peer tells us: the longest that
// Kubernetes allows. Names live on in records and metrics, long after the header
// they came in, so they must neither be long nor keep that header alive.
// Source: RFC 1123, section 2.1.
const maxName = 253

// ParseBaggage reads header lines. Of a member only what stands between the
// first and the second '=' counts; unknown keys and values that could not be
// written or are no names are left out, later members replace earlier ones.
func ParseBaggage(lines ...string) Baggage {
	var b Baggage
	for _, line := range lines {
		for member := range strings.SplitSeq(line, ",") {
			key, value, _ := strings.Cut(member, "=")
			value, _, _ = strings.Cut(value, "=")
			value, _, _ = strings.Cut(value, ";")
			if value = strings.TrimSpace(value); isToken(value) && len(value) <= maxName {
				b.set(strings.TrimSpace(key), strings.Clone(value))
			}
		}
	}
	return b
}

func (b *Baggage) set(key, value string) {
	switch key {
	case baggageCluster:
		b.Cluster = value
	case baggageNamespace:
		b.Namespace = value
	case baggageService:
		b.ServiceName = value
	case baggageVersion:
		b.ServiceVersion = value
	case baggageRegion:
		b.Region = value
	case baggageZone:
		b.Zone = value
	default:
		for _, t := range []workload.Type{workload.TypeDeployment, workload.TypeCronJob, workload.TypePod, workload.TypeJob} {
			if key == baggageWorkload(t) {
				b.WorkloadType, b.WorkloadName = t, value
			}
		}
	}
}
