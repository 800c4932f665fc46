// Package footprint is what a process takes of its machine: how far its heap may grow
// and when it is collected, what it gives back when it is idle, the memory limit of its
// cgroup, and how many processors it uses. Each is a setting of the Go runtime that
// follows what the process does.
package footprint
