// Package cluster is a real Kubernetes on one machine: API server, nodes with
// kubelet and containerd, name server, services, network policy.
//
// # What it builds
//
//	control   etcd, kube-apiserver, kube-controller-manager, kube-scheduler; the bridge
//	          that is the wire between the nodes
//	node-1    containerd, kubelet, kube-proxy (nftables), labnetpol
//	node-2    the same
//
// Each is a machine in the sense of package machine: with a root, a network and a
// process tree of its own, whose end removes all of it. The host keeps a directory,
// the cgroups, and one end of a veth by which `kubectl` reaches the API server.
//
// # Where programs come from
//
// Kubernetes, etcd and CoreDNS are built from their Go modules, which the modules in
// tools/ name, into a cache of the user: the first time takes minutes. containerd,
// runc and nft are packages of the distribution. There is no registry: images are put
// together from static programs and imported into each node.
//
// # Ownership
//
// The state file names the first process of each machine with its start time, so
// that [Down] never ends a stranger; while a cluster is being built its machines end
// with the process that builds it. Any process may [Open] a cluster that stands.
//
// # NetworkPolicy
//
// Enforced by the package netpol below. Calico's felix was looked for first: its
// module has no tagged version that go could require, and what a test cluster needs
// of it fits on a few pages.
package cluster
