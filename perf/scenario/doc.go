// Package scenario measures meshes that stand side by side on this machine: the
// same load on the same ways through ours, through another ztunnel in our
// place, and through none.
//
// # What stands
//
// One lab (internal/lab) per variant, with the programs of the package load in
// its pods. The other ztunnel runs with our agent and our control plane: the
// node proxy is all that differs. Variants take turns within each repetition of
// a case; the labs that wait do nothing.
//
// # The ways
//
//	same    two pods of one node
//	across  two pods on two nodes
//
// # Not done here
//
// Making load, reading processor time, and judging: load, measure, report.
package scenario
