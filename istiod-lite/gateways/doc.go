// Package gateways makes waypoints: of each Gateway of a class of ours a Deployment
// with its Service, ServiceAccount, autoscaler and disruption budget, and it says in
// the statuses of Gateways and GatewayClasses what became of them.
//
// # How things flow
//
//	Gateway, GatewayClass ──► settings ──► build ──► server-side apply
//	ConfigMap of parameters ──►   │                     │ somebody changes or deletes it
//	                              └── status ◄──────────┘
//
// [Controller.Lead] runs on the elected replica only. What is to be made follows
// from the Gateway and the settings alone ([Build], pure); it is applied when it
// differs from what was applied last, and when somebody has changed it. Everything
// made is owned by the Gateway: Kubernetes removes it with the Gateway.
//
// # Settings
//
// In this order, later ones win: those of the installation; the ConfigMaps that
// parametersRef of the GatewayClass and spec.infrastructure.parametersRef of the
// Gateway name; annotations of the Gateway. A ConfigMap has one key per kind:
// deployment, service, serviceAccount, horizontalPodAutoscaler, podDisruptionBudget;
// its value is laid over what would be made, by the rules of strategic merge. It may
// not make a waypoint more powerful than its namespace lets others be: see [Build].
//
//	ambit.dev/waypoint-replicas      how many instances at least
//	ambit.dev/waypoint-max-replicas  how many at most; the same number: no autoscaler
//	ambit.dev/waypoint-drain         how long requests may go on when an instance ends: 30s
//	ambit.dev/waypoint-log-level     as --log-level of the program
//	gateway.istio.io/name-override   the name of what is made
//	gateway.istio.io/service-account a service account that is there already
//
// Certificates for tls.caCertificates of a DestinationRule come into a waypoint by a
// volume from a ConfigMap, laid over its deployment.
//
// # Ownership
//
// [Controller.Lead] owns every goroutine and returns when all have ended.
//
// # Not done here
//
// Which objects are bound to a waypoint, and whether it is ready: see model.
package gateways
