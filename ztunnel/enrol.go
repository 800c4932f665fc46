package ztunnel

import (
	"context"
	"net"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/ambit-mesh/ambit/ztunnel/pods"
)

// enrol tells the manager whom to serve, until ctx ends: one workload and nobody
// else, or our own pod and those that the agent hands over. here is the network
// namespace of this proxy.
func (z *Ztunnel) enrol(ctx context.Context, here *netns.NS) error {
	if !z.cfg.Dedicated.IsZero() {
		return z.enrolDedicated(ctx, here)
	}
	if err := z.enrolSelf(ctx, here); err != nil {
		return err
	}
	return z.agent.Run(ctx, z.pods)
}

// enrolDedicated serves the one workload until ctx ends.
func (z *Ztunnel) enrolDedicated(ctx context.Context, here *netns.NS) error {
	w := z.cfg.Dedicated
	ns, err := here.Clone()
	if err != nil {
		return err
	}
	info := zds.Info{Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
	if err := z.pods.ServeAlone(ctx, w.Namespace+"/"+w.Name, info, ns); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// enrolSelf serves our own pod when its names are known, so that scrapers in the
// mesh reach the metrics. Nothing else of us can be reached that way: the
// administration never.
func (z *Ztunnel) enrolSelf(ctx context.Context, here *netns.NS) error {
	n := z.cfg.Node
	port := z.statsPort()
	if n.PodName == "" || n.PodNamespace == "" || n.ServiceAccount == "" || port == 0 {
		return nil
	}
	ns, err := here.Clone()
	if err != nil {
		return err
	}
	return z.pods.ServeSelf(ctx, pods.Self{
		Info:  zds.Info{Name: n.PodName, Namespace: n.PodNamespace, ServiceAccount: n.ServiceAccount},
		NS:    ns,
		Ports: []uint16{port},
	})
}

// statsPort is the port of the metrics, 0 when there is none.
func (z *Ztunnel) statsPort() uint16 {
	addr, ok := z.admin.Addr("stats").(*net.TCPAddr)
	if !ok {
		return 0
	}
	return uint16(addr.Port)
}
