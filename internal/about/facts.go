package about

import (
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// Workload is what metrics and logs say about w. Nil gives what is known of
// nothing.
func Workload(w *workload.Workload) telemetry.Workload {
	if w == nil {
		return telemetry.Workload{}
	}
	return telemetry.Workload{
		Name:              w.Name,
		Namespace:         w.Namespace,
		WorkloadName:      w.WorkloadName,
		CanonicalService:  w.CanonicalName,
		CanonicalRevision: w.CanonicalRevision,
		Cluster:           w.ClusterID,
		Region:            w.Locality.Region,
		Zone:              w.Locality.Zone,
	}
}

// Service is what metrics and logs say about s. Nil gives nothing.
func Service(s *workload.Service) telemetry.Service {
	if s == nil {
		return telemetry.Service{}
	}
	return telemetry.Service{Host: s.Hostname, Namespace: s.Namespace, Name: s.Name}
}

// Source is what metrics and logs say about the other end of what came in.
//
// The picture is believed before the caller's own words, and only when it
// agrees with the proven identity: addresses are used again. A caller of
// another network has no address that means anything here, so its words are
// all there is, apart from its identity.
func Source(snap *workload.Snapshot, network string, addr telemetry.Peer, caller Caller) telemetry.Peer {
	foreign := caller.Network != "" && caller.Network != network
	if !foreign {
		w := snap.LookupWorkload(network, addr.Addr.Addr())
		if w != nil && (addr.Identity.IsZero() || sameAccount(w.Identity, addr.Identity)) {
			addr.Workload = Workload(w)
			return addr
		}
	}
	b := caller.Baggage
	addr.Workload = telemetry.Workload{
		Namespace:         b.Namespace,
		WorkloadName:      b.WorkloadName,
		CanonicalService:  b.ServiceName,
		CanonicalRevision: b.ServiceVersion,
		Cluster:           b.Cluster,
		Region:            b.Region,
		Zone:              b.Zone,
	}
	if !addr.Identity.IsZero() {
		addr.Workload.Namespace = addr.Identity.Namespace
	}
	return addr
}

// sameAccount reports whether a and b are the same, trust domains aside.
func sameAccount(a, b identity.ID) bool {
	return a.Namespace == b.Namespace && a.ServiceAccount == b.ServiceAccount
}
