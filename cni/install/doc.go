// Package install puts the plugin and its config where the runtime looks, and
// keeps them there.
//
// # Two ways to be asked
//
// A container runtime takes the first file of its configuration directory, in
// lexical order, that is one. That file, the primary, belongs to another tool:
// the node's network. There are two ways to have our plugin called after its own:
//
//	own      a file of ours that sorts before it: a copy of the primary with our
//	         entry at the end. The default.
//	chained  our entry at the end of the primary itself.
//
// Own is the default because who wrote the primary may write it again, at any time
// and above all while a node starts: what was written into it is gone then, and
// pods start outside of the mesh until somebody notices. A file of ours stays.
// When the primary changes the copy follows. When the primary vanishes the copy
// stays: the runtime then asks plugins that are not there, and pods wait instead
// of starting outside of the mesh. Chained is for tools that take every other
// file of the directory away.
//
// # What is kept
//
// Each file is written beside its place and renamed into it, so that there is no
// moment without a whole one; mode and owner are those of the primary. In chained
// mode the bytes of the primary are kept in a file that no runtime reads, and
// [Installer.Uninstall] puts exactly those back, unless somebody has written the
// primary since: then our entry is taken out of what there is.
//
// The directories are watched, and looked at every now and then besides.
//
// # Not done here
//
// Saying when to uninstall: see cni/kube. Anything with pods: see cni/agent.
package install
