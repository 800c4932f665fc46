// Package pods keeps one set of listeners and one tunnel pool per enrolled pod.
//
// # Who decides
//
// One goroutine, [Manager.Run], owns the list of pods. What the agent says
// ([Manager] is a zds.Handler), what breaks and what is due again comes to it as
// a command, one after the other, so the list has no lock and no order of
// events needs to be guessed. Only the index by name is shared: the local path
// and the renewal of certificates read it.
//
// # The life of a pod
//
//	Add      listeners in its namespace; when they cannot be made the agent is
//	         told why, the pod is pending, and is tried again every 5 s
//	Add      again with the same namespace: nothing new
//	Add      with another namespace: stopped, then started anew
//	Del      everything of it ends at once
//	Snapshot what is not in it ends at once
//
// The end of Run's context means "take no more": listeners close, tunnels say
// GOAWAY, and what lives may go on for [Config.Drain].
//
// # Files
//
//	manager.go     the owner and its commands
//	handler.go     what the agent says
//	alone.go       the one pod of a proxy without an agent
//	proxy.go       one pod: listeners, inbound, outbound
//	dns.go         the pod's DNS questions
//	self.go        the proxy's own pod
//	neighbours.go  pods of this node for each other
//	wiring.go      certificates and pictures that change
//	metrics.go     workload_manager_*
package pods
