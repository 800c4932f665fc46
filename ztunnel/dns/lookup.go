package dns

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/ambit-mesh/ambit/internal/workload"
)

// Names says which names there are, for [Names.Lookup].
type Names struct {
	// Domain is the DNS domain of the cluster. Empty means cluster.local.
	Domain string
	// PreferredNamespace is whose service counts when a name has several in
	// namespaces that are not the client's.
	PreferredNamespace string
	// IPv4Only leaves IPv6 addresses out.
	IPv4Only bool
}

// Client is who asks.
type Client struct {
	Namespace string
	Network   string
}

// Found is what the picture says of a name.
type Found struct {
	// Service is what the client means; nil when the picture does not know the
	// name, and somebody else has to be asked.
	Service *workload.Service
	// Alias is the name without the search domain, of which the addresses are;
	// "" when it is the name itself.
	Alias string
	// Addresses are those of the wanted family, in random order. There may be
	// none: then the name exists all the same.
	Addresses []netip.Addr
}

// Lookup finds the addresses of one family that a client means by name.
func (n Names) Lookup(snap *workload.Snapshot, c Client, name string, v6 bool) Found {
	cluster := names{domain: strings.ToLower(strings.TrimSuffix(n.Domain, "."))}
	if cluster.domain == "" {
		cluster.domain = "cluster.local"
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for _, cand := range cluster.candidates(name, c.Namespace) {
		var svc *workload.Service
		if !eachPattern(cand.host, func(pattern string) bool {
			svc = snap.LookupName(pattern, c.Namespace, n.PreferredNamespace, cluster.answerable)
			return svc != nil
		}) {
			continue
		}
		out := Found{Service: svc, Alias: cand.rest}
		if !v6 || !n.IPv4Only {
			out.Addresses = shuffled(addressesOf(snap, c, svc, v6))
		}
		return out
	}
	return Found{}
}

// answerable reports whether svc is for us to answer: it has addresses of its
// own, or is a headless service of Kubernetes. Of anything else only upstream
// knows the addresses.
func (n names) answerable(svc *workload.Service) bool {
	return len(svc.VIPs) > 0 || n.isService(svc.Hostname)
}

// addressesOf returns the addresses of svc that a client can call: its own in
// the client's network, or those of its endpoints when it is headless.
func addressesOf(snap *workload.Snapshot, c Client, svc *workload.Service, v6 bool) []netip.Addr {
	wanted := func(a netip.Addr) bool { return a.Is6() == v6 && svc.Families.Accept(a) }
	var out []netip.Addr
	if len(svc.VIPs) > 0 {
		for _, vip := range svc.VIPs {
			if a := vip.Prefix.Addr(); vip.Network == c.Network && vip.Prefix.IsSingleIP() && wanted(a) {
				out = append(out, a)
			}
		}
		return out
	}
	for _, ep := range snap.Endpoints(svc) {
		if ep.Workload.Network != c.Network {
			continue
		}
		for _, a := range ep.Workload.Addresses {
			if wanted(a) {
				out = append(out, a)
				break // one for each endpoint
			}
		}
	}
	return out
}

// shuffled returns at most mostAddresses of all, in random order.
func shuffled(all []netip.Addr) []netip.Addr {
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), mostAddresses)]
}
