package ztunnel

import (
	"errors"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/sockowner"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/xds"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/ambit-mesh/ambit/ztunnel/admin"
	"github.com/ambit-mesh/ambit/ztunnel/dns"
	"github.com/ambit-mesh/ambit/ztunnel/inbound"
	"github.com/ambit-mesh/ambit/ztunnel/outbound"
	"github.com/ambit-mesh/ambit/ztunnel/pods"
)

// This file translates between the parts, which do not know each other: our
// Config into theirs, and their events into logs and metrics.

// podsConfig is what the pods are told.
func (z *Ztunnel) podsConfig(questions *telemetry.DNSMetrics) pods.Config {
	c, t := z.cfg.Capture, z.cfg.Tunnel
	budget := hbone.NewBudget(0)
	tuning := hbone.Tuning{StreamWindow: t.StreamWindow, ConnWindow: t.ConnectionWindow, FrameSize: t.FrameSize, StdRecords: t.StdRecords, RoundTrip: netns.RoundTrip}
	return pods.Config{
		TrustDomain: z.cfg.Node.TrustDomain,
		Drain:       z.cfg.Drain,
		IPv4Only:    c.IPv4Only,
		OwnSource:   c.Source == SourceNever,
		Alone:       !z.cfg.Dedicated.IsZero(),
		Sockets: netns.SocketOptions{
			Mark: c.Mark, NoMark: c.Mark == 0, Exclusive: c.Exclusive, Transparent: transparency(c.Source),
			UserTimeout: c.KeepAlive.userTimeout(),
			KeepAlive:   netns.KeepAlive{Off: c.KeepAlive.Off, Idle: c.KeepAlive.Idle, Interval: c.KeepAlive.Interval, Probes: c.KeepAlive.Probes},
		},
		DNS: z.dnsConfig(questions),
		Outbound: outbound.Config{
			Network: z.cfg.Node.Network, EncryptLocal: t.EncryptLocal,
			Pool: hbone.PoolConfig{
				Tuning: tuning, StreamsPerConn: t.MaxStreams, IdleTimeout: t.UnusedRelease, ProveAfter: t.ProveAfter, Budget: budget,
			},
		},
		Inbound: inbound.Config{
			Network: z.cfg.Node.Network, AppTunnelByAddress: c.AppTunnelByAddress, WithoutBaggage: t.WithoutResponseHints,
		},
		Server: hbone.ServerConfig{Tuning: tuning, Budget: budget},
	}
}

// socketOwners is who tells the kubelet from other plaintext callers, or nil.
func (z *Ztunnel) socketOwners() inbound.Owners {
	if z.cfg.Capture.OwnerSocket == "" {
		return nil
	}
	z.owner = sockowner.NewClient(sockowner.ClientConfig{Path: z.cfg.Capture.OwnerSocket, Learned: z.learnedMeans()})
	return z.owner
}

// learnedMeans logs whether probes are let in while the agent is away, whenever
// that changes.
func (z *Ztunnel) learnedMeans() func(sockowner.Means, error) {
	log := z.log.Named("sockets")
	var knows, cannot bool
	return func(m sockowner.Means, err error) {
		switch {
		case err == nil && !knows:
			log.Info("the kubelet's sockets are known here, too: its probes pass also while the agent is away",
				zap.Uint64s("cgroups", m.Cgroups), zap.Bool("any", m.Any))
			knows, cannot = true, false
		case errors.Is(err, sockowner.ErrCannotSay) && !cannot:
			log.Warn("only the agent knows the kubelet's sockets: its probes are refused under STRICT while the agent is away", zap.Error(err))
			knows, cannot = false, true
		}
	}
}

// dnsConfig is how pods' DNS questions are answered; nil when they are not.
func (z *Ztunnel) dnsConfig(counts *telemetry.DNSMetrics) *pods.DNS {
	d, n := z.cfg.DNS, z.cfg.Node
	if d.Off {
		return nil
	}
	return &pods.DNS{
		Config: dns.Config{
			Names:   dns.Names{Domain: n.ClusterDomain, PreferredNamespace: d.PreferredNamespace, IPv4Only: z.cfg.Capture.IPv4Only},
			Network: n.Network,
		},
		Port:     d.Port,
		Fallback: func() ([]netip.AddrPort, error) { return dns.Resolvers(d.ResolvConf) },
		Metrics:  counts,
	}
}

// userTimeout is how long what we have sent may stay unacknowledged; 0 leaves it
// to the kernel.
func (k KeepAlive) userTimeout() time.Duration {
	if !k.UserTimeout {
		return 0
	}
	return k.Idle + time.Duration(k.Probes)*k.Interval
}

// transparency is what the listeners of a pod need for s.
func transparency(s Source) netns.Transparency {
	switch s {
	case SourceAlways:
		return netns.TransparentAlways
	case SourceNever:
		return netns.TransparentNever
	default:
		return netns.TransparentIfPossible
	}
}

// listPods is the list of pods as the admin server shows it.
func (z *Ztunnel) listPods() []admin.Pod {
	var out []admin.Pod
	for _, p := range z.pods.Pods() {
		out = append(out, admin.Pod{
			UID: p.UID, Up: p.Up, Name: p.Info.Name, Namespace: p.Info.Namespace,
			ServiceAccount: p.Info.ServiceAccount, TrustDomain: z.cfg.Node.TrustDomain,
		})
	}
	return out
}

// gateTrace counts what policy refuses and cuts.
func gateTrace(counts *telemetry.ProxyMetrics) policy.GateTrace {
	return policy.GateTrace{
		MissingRefused: func(policy.Subject, policy.Verdict) { counts.PolicyMissing() },
		Revoked:        func(policy.Subject, policy.Request, error) { counts.Cut(telemetry.StagePolicy) },
	}
}

// connFields are how a tunnel looks in the log.
func connFields(i hbone.ConnInfo) []zap.Field {
	return []zap.Field{zap.Stringer("local", i.Local), zap.Stringer("remote", i.Remote), zap.Bool("server", i.Server)}
}

// handshakeFailed says why a caller did not get in. At most one line a second is
// a warning, so that a caller cannot fill the disk.
func (z *Ztunnel) handshakeFailed(log *zap.Logger) func(netip.AddrPort, error) {
	limit := newEvery(time.Second)
	return func(remote netip.AddrPort, err error) {
		level := zap.DebugLevel
		if limit.due() {
			level = zap.WarnLevel
		}
		if e := log.Check(level, "tunnel refused"); e != nil {
			e.Write(zap.Stringer("remote", remote), zap.Error(err))
		}
	}
}

// agentTrace logs the conversation with the CNI agent.
func (z *Ztunnel) agentTrace() zds.ClientTrace {
	log := z.log.Named("zds")
	limit := newEvery(15 * time.Second)
	return zds.ClientTrace{
		Connected: func() { log.Info("the CNI agent is connected", zap.String("socket", z.cfg.Capture.ZDSSocket)) },
		Retry: func(err error, wait time.Duration) {
			if limit.due() {
				log.Warn("no connection to the CNI agent: does it run on this node?",
					zap.String("socket", z.cfg.Capture.ZDSSocket), zap.Duration("wait", wait), zap.Error(err))
			}
		},
	}
}

// xdsEvents logs and counts the conversation with the control plane.
func (z *Ztunnel) xdsEvents(counts *telemetry.XDSMetrics) xds.Events {
	log := z.log.Named("xds")
	done := z.ready.Task("first picture of the control plane")
	return xds.Events{
		Connected: func() { log.Info("the control plane is connected", zap.String("address", z.cfg.XDS.Address)) },
		Disconnected: func(reason xds.Termination, err error, expected bool, wait time.Duration) {
			counts.Terminated(terminationOf(reason))
			level := zap.WarnLevel
			if expected {
				level = zap.InfoLevel
			}
			if e := log.Check(level, "the control plane is away; what is known stays in force"); e != nil {
				e.Write(zap.String("address", z.cfg.XDS.Address), zap.String("reason", string(reason)),
					zap.Duration("wait", wait), zap.Error(err))
			}
		},
		Received: func(typeURL string, resources, removed, bytes int) {
			counts.Received(typeURL, bytes)
			log.Debug("resources received", zap.String("type", typeURL), zap.Int("resources", resources),
				zap.Int("removed", removed), zap.Int("bytes", bytes))
		},
		Rejected: func(typeURL string, why map[string]error) {
			for name, err := range why {
				log.Warn("resource rejected; its former value stays in force",
					zap.String("type", typeURL), zap.String("resource", name), zap.Error(err))
			}
		},
		Ready: done,
	}
}

// terminationOf is the metric label of r.
func terminationOf(r xds.Termination) telemetry.Termination {
	switch r {
	case xds.TerminatedReconnect:
		return telemetry.Reconnect
	case xds.TerminatedConnectionError:
		return telemetry.ConnectionError
	case xds.TerminatedComplete:
		return telemetry.Complete
	default:
		return telemetry.StreamError
	}
}
