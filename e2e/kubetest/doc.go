// Package kubetest runs a real API server for tests of one package: etcd and
// kube-apiserver as the lab builds them, on loopback, without nodes and without
// controllers. RBAC is in force; pods are what a test writes.
//
// [Main] runs a package's tests and ends the server; [Get] starts it when the
// first test asks. Without the programs tests are skipped and say how to get them;
// where CI is set they are built instead.
package kubetest
