// Package netns says which network stack: open a namespace, act inside it, find
// the original destination.
//
// # How an act moves
//
// [NS.Do] runs a function on a thread that stands inside the namespace. Only
// making a socket needs that: bind, listen and connect belong to the stack in
// which the socket was made, whoever calls them. So [NS.Dial] visits the
// namespace for one system call and waits for its connection at home, and no
// thread is held while a peer takes its time.
//
// # Ownership
//
// An [NS] holds its namespace alive until [NS.Close]. All methods may be called
// from many goroutines; after Close they report [os.ErrClosed] and never touch a
// descriptor that the kernel has given to somebody else.
//
// # Threads
//
// A thread that cannot come home is never handed back to the runtime: its
// goroutine ends while it is locked to it, and the runtime ends the thread too.
// The descriptor of home is taken on a goroutine of its own, so that it is right
// even where [Open] is called inside Do.
//
// # Not done here
//
// Making namespaces (see netnstest for tests, and the container runtime), rules
// and routes (see cni/redirect).
package netns
