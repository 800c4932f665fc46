// Package dns answers pods' DNS questions from the picture.
//
// # The way of a question
//
//	ServeUDP, ServeTCP   a question arrives; the pod's rules have sent it here
//	parse                what it asks for (message.go)
//	Lookup               which service the pod means by the name (names.go, lookup.go): pure
//	forward              everything else goes where the pod had sent it (forward.go)
//
// Only addresses of services are answered here, those that the cluster's DNS
// does not know among them: ServiceEntry hosts with addresses of their own. All
// else is handed on byte for byte, but for the id, and so is the answer: other
// record types, signatures, updates and zone transfers work as without a mesh.
//
// # Where a question goes on to
//
// To the resolver that the pod has asked, as conntrack remembers it, from the
// pod's own namespace and with our mark: its dnsConfig, its network policies and
// its resolver's view count as without a mesh. Only when conntrack does not say,
// to the resolvers of this proxy's own resolv.conf.
//
// # Search domains
//
// A pod tries the search domains of its own resolv.conf one after the other. For
// the three that Kubernetes gives (namespace, svc, cluster domain) the rest of
// the name is looked up at the first try, which saves questions. Names under any
// other search domain are handed on, since an answer of ours could hide a name
// that is really there.
//
// # Bounds
//
// limits.go names how much a pod, and all pods of the node, can make us hold.
// An answer from upstream counts only when it comes from the address that was
// asked, to the port that asked (a new one for each question), with the id and
// the question that were sent.
package dns
