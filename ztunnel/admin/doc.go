// Package admin shows the truth about a node proxy: the picture, connections,
// certificates, profiles, metrics, readiness.
//
// Three servers, since three kinds of askers may reach them:
//
//	admin      localhost:15000  people on the node: /config_dump, /connections,
//	                            /why, /logging, /quitquitquit, /debug/pprof
//	stats      [::]:15020       Prometheus: /metrics, /stats/prometheus
//	readiness  [::]:15021       the kubelet: /healthz/ready
//
// # Who may ask
//
// What the admin server shows and does is for the node's owner. It listens on
// loopback and refuses any other address unless that is asked for by name; it
// answers only requests for localhost or an IP address, so that a web page
// cannot reach it by a name that it lets point here; and it refuses writes that
// come from a web page of another origin.
//
// # What is shown
//
// The keys of /config_dump are those that existing tools parse. A private key
// is never in it: of certificates only the public part is read.
//
// # Not done here
//
// To change anything but log levels, and to end by itself: see [Deps.Quit].
package admin
