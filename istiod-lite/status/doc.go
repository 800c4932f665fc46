// Package status says how the control plane is: whether it is ready, what stands,
// and what the authors of objects should know.
//
// A [Board] collects conditions from the model's changes and asks its sections
// when somebody looks:
//
//	/healthz   200 while the process serves
//	/readyz    200 once every check passes; else 503 and the reasons
//	/status    JSON; with ?format=text the same for reading; for callers on loopback only
//	/metrics   for Prometheus
//
// # Not done here
//
// Authentication: health, readiness and metrics are for whoever reaches the address.
package status
