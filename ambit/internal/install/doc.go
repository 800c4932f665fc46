// Package install puts ambit on a cluster, replaces it by another version, and
// takes it away.
//
// # The path of an installation
//
// [Render] makes the objects of the chart with Helm's engine, so that `ambit
// install`, `ambit install -o yaml` and `helm install` make the same.
// [Installer.Apply] creates the definitions that are missing, applies the objects
// server-side under a field manager of its own, removes those of an earlier
// version that are no more, and remembers in a Secret what it applied
// ([Inventory]). [Wait] says what is waited for until every part runs, and what
// is in the way.
//
// # The way out
//
// [Installer.Remove] first takes the agents away, which release their pods while
// the proxies still serve them, then what the inventory names, then what the
// running parts made by themselves. It touches nothing that does not carry our
// label.
//
// # Not done here
//
// Releases of Helm: an installation made by helm is left to helm.
package install
