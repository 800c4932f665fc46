// Package measure takes what a load costs out of /proc: processor time and
// context switches of processes and of the machine, and memory.
//
// Take samples before and after; [Between] is what happened in between. The
// kernel's own work for a process (system calls, and most of the network stack)
// is in the time of the process that was running; what it does in interrupts is
// only in that of the machine.
package measure
