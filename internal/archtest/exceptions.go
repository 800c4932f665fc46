package archtest

import "strings"

// Exception allows one place to break one rule.
type Exception struct {
	Rule   string
	File   string // from the module's root
	What   string // part of what the violation says; empty means all of the file
	Reason string
}

// covers tells whether e allows v.
func (e Exception) covers(v Violation) bool {
	return e.Rule == v.Rule && e.File == v.File && strings.Contains(v.What, e.What)
}

// Exceptions are all exceptions of this house.
var Exceptions = []Exception{
	{
		"background", "internal/lab/main_test.go", "",
		"the test binary runs again as the program of a pod; that process has no test whose context it could take",
	},
	{
		"background", "e2e/cluster/machine/machine_test.go", "",
		"the same: the test binary runs again as the first process of a machine, or as one who starts it and is killed",
	},
	{
		"background", "perf/scenario/main_test.go", "",
		"the same: the test binary runs again in a pod, or as WireGuard on a node",
	},
}
