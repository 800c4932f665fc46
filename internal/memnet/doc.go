// Package memnet is a network in memory: connections with half-close, deadlines
// and faults. For tests, above all in fake time (testing/synctest): nothing in
// it waits for the kernel.
package memnet
