// Package machine is a computer made of namespaces: a process that is init of a
// PID namespace, with a root, a network, a hostname and a cgroup tree of its own.
//
// # Why a whole machine and not only a network namespace
//
// Kubernetes puts things at fixed paths (/run/containerd, /opt/cni/bin,
// /etc/cni/net.d, /var/lib/kubelet), and so does what is installed on it by
// hostPath. Two nodes that share a file system would meet there. And a machine
// whose init ends is removed by the kernel: every process on it, every mount, its
// network and what hangs on that. So nothing is left behind when it is killed, in
// whatever state it was, and killing it is what a power cut would do.
//
// # How it starts
//
// [Start] runs `labnode init DIR` in new namespaces. It waits on a pipe until its
// starter has put it into its cgroup and given it a network; then it makes its root
// and runs the services of its [Spec], again when one ends. When the starter dies
// before it has said that all is well, the pipe ends and the machine with it.
//
// # What it listens to
//
// A Unix socket in DIR takes one line: "start NAME", "stop NAME", "kill NAME" or
// "status", and answers with one line.
package machine
