// Package archtest keeps the arrows pointing down, and the other rules of this
// house that a program can check. For tests.
//
// [Load] parses the module's sources (no types, no build: it takes a second),
// [Rules] are what is checked, and each [Violation] says where, what, and why
// it matters. What a rule forbids and a place needs nevertheless stands in
// exceptions.go with the reason; an exception that is not needed any more is a
// violation too.
//
// Rules look at the syntax of one package at a time and guess where types would
// be needed. They are made to be wrong on the quiet side: what they report is
// so, what they do not report may still be found by a reader.
package archtest
