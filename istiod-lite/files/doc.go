// Package files reads the world from a directory of ordinary Kubernetes
// manifests, for machines without a cluster: objects in, events out.
//
// # How things flow
//
// A [Source] watches the directory by internal/yamldir, decodes each document
// into its upstream Go type, has the model check it, and tells of what differs as
// a batch of model events. A file with one bad object is refused as a whole and
// its last good state stays in force; [Source.Report] says what is wrong where.
// Kinds that the model does not know are reported as ignored.
//
// # Not done here
//
// What objects mean: see istiod-lite/model.
package files
