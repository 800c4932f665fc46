// Package telemetry says what happened: one record per connection, the metrics
// and the access log made from it, and the logger.
//
// # The life of a record
//
// A stage that knows who talks to whom calls [Records.Open]; the connection is
// then counted as opened and listed by [Records.Live]. While it lives only its
// two byte counters move, and nothing is done per read: a scrape collects what
// they have gained. [Record.Close] is called once, with the error that ended
// the connection or nil. It counts, writes one access log line, and leaves an
// [Entry] in a ring of bounded size, for those who ask afterwards.
//
// What is refused before anybody knows who talks to whom goes through
// [Records.Refuse]: a line and an entry, no metric.
//
// # Errors
//
// An [Error] carries the stage, the fault (who has to act) and a hint (what to
// try). The response flag of metrics follows from it: see [FlagOf]. Functions
// named Explain make an Error from what a stage got.
//
// # Nothing global
//
// Metrics are registered on the registry that is passed, levels belong to the
// [Logger] that is passed. Two meshes in one process do not meet.
package telemetry
