// Package keeper keeps in the cluster what this control plane has to write there:
// one of several replicas does, and only where something differs.
//
// # How things flow
//
//	Secret ──────────────────────────► certificate authority (every replica)
//	events, changes of the model ──► names of objects to look at
//	the leader looks at each ──► compares what stands with what should ──► applies
//
//	secret.go      the CA's Secret: followed by all, made by the leader when there is none
//	roots.go       ConfigMap istio-ca-root-cert in every namespace
//	conditions.go  status conditions of what users wrote
//	parents.go     the same of routes, for each parent
//	addresses.go   addresses of ServiceEntries that have none of their own
//	taint.go       the taint of a node goes when its CNI agent is Ready
//
// An object is looked at when it changed, when what should be said about it did,
// and once when a replica begins to lead. What cannot be written is tried again,
// later and later.
//
// # Ownership
//
// [Keeper.Run] owns every goroutine and returns when all have ended.
//
// # Metrics
//
//	ambit_leader                      1 while this replica writes
//	ambit_writes_total{kind,result}   objects written, and those that could not be
package keeper
