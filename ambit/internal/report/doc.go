// Package report collects what there is to know of an installation into one
// archive, for somebody who cannot look at the cluster.
//
// Nothing that is secret gets in: Secrets are not read, config_dumps hold only
// public parts, and lines that look like keys or tokens are struck out of what
// is collected ([Redact]).
package report
