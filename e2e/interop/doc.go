// Package interop is what ambit promises beside parts of Istio, on a real cluster:
// each part takes the place of its counterpart, and the counterpart takes ours.
//
// # Worlds
//
// A [World] is a mesh of mixed parts:
//
//	istiod      a real istiod drives our ztunnel and our CNI agent
//	ztunnel     our istiod-lite and our CNI agent drive a real Rust ztunnel
//	istio-cni   a real istio-cni agent, and our istiod-lite, drive our ztunnel
//	alone       our ztunnel between a real istiod and a real istio-cni agent
//
// A world is made, its promises are cases of package cases, and it is removed.
//
// # Where the parts come from
//
// Ours are what `ambit install -o yaml --parts` prints. Those of Istio are programs
// that were built elsewhere, in a directory (see [FindPeers]); they are put into images
// here, and run by manifests of this package, with all rights: what they may do is no
// promise of ours.
//
// # What the others cannot do
//
// The cases say it in their evidence, and README.md of e2e lists it.
package interop
