// Package kube is the connection of the command line to a cluster: the usual
// kubeconfig, typed and untyped clients, and HTTP requests to the ports of pods
// through the API server, which reaches those on a pod's loopback too.
package kube
