package cases

import (
	"context"
	"regexp"
)

// Case is something that ambit promises.
type Case struct {
	Name  string // of lower case letters, digits and '-'; part of the case's namespace
	About string // what is promised, in one line
	// Run makes it happen and returns the evidence.
	Run func(ctx context.Context, e *Env) (evidence string, err error)
	// Plain cases prove the harness itself and need no mesh.
	Plain bool
	// Breaks is set when the mesh is taken apart: such a case runs last.
	Breaks bool
}

// All lists the cases in the order in which they run.
func All() []Case {
	var all []Case
	for _, group := range [][]Case{harnessCases(), labCases(), enrolCases(), trafficCases(), nameCases(), policyCases(), waypointCases(), givenCases(), tokenCases(), faultCases(), rootCases(), lastCases()} {
		all = append(all, group...)
	}
	return all
}

// Matching keeps the cases whose names match the expression.
func Matching(all []Case, only *regexp.Regexp) []Case {
	var some []Case
	for _, c := range all {
		if only == nil || only.MatchString(c.Name) {
			some = append(some, c)
		}
	}
	return some
}
