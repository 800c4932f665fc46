// Package manifests is what installing ambit on Kubernetes consists of: one Helm
// chart, and the definitions of the kinds that users write.
//
// `ambit install`, `helm install` and `ambit install -o yaml` render the same
// chart. The definitions are those that their projects publish; they are applied
// only where they are missing, because a cluster may have newer ones.
package manifests
