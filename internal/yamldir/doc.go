// Package yamldir reads and watches one directory of Kubernetes manifests: which
// objects stand in which file and line, and what is wrong where.
//
// # How things flow
//
// [Reader.Read] lists the directory (*.yaml, *.yml, *.json; sub-directories and
// names that begin with a dot are left alone), cuts each file into [Document]s
// and asks [Config.Check] about every file. A file that does not parse, does not
// pass the check, or holds an object that stands in another file too is refused
// as a whole: its reason is in [Set.Refused] and its last good state stays in
// force; [Set.Unheard] are those that never had one. [Reader.Watch] does the same
// whenever something changes, and every few seconds in case a notification was
// lost.
//
// # Ownership
//
// A Reader may be used from many goroutines; reads happen one after the other.
// What it hands out is never changed afterwards.
//
// # Not done here
//
// What an object means. Users decode documents with [Document.Decode] and report
// their own complaints with [Document.Errorf], which knows the line.
package yamldir
