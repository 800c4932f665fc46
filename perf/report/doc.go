// Package report keeps what a run has measured, and says what it means: a JSON
// file with every raw sample, a table for a terminal, and the comparison of two
// runs.
//
// # How figures are made
//
// Each case is repeated, the variants taking turns (A B C A B C), so that what
// the machine does meanwhile meets all of them. A figure is the median over the
// repetitions with an interval that holds the true mean with 95 % certainty
// (Student's t). A ratio is taken within each repetition, between neighbours in
// time; its interval is that of the logarithms.
//
// A percentile is printed only when 100 samples lie beyond it, counted over all
// repetitions together.
//
// A sample whose load was limited by the generator, not by what was measured,
// is marked invalid with the reason; it is kept, and no figure uses it.
package report
