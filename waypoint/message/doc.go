// Package message is what a request and an answer are, whichever version of HTTP
// carries them.
//
// A message has a head, a body that is read as it comes, and trailers. The head
// is checked and in canonical form before anybody looks at it: what is decided
// about is what is sent on. What two programs could read in two ways is refused
// with an [Error], or, where honest clients send it, kept as a second reading
// (see [Request.AltPath]) so that who decides can ask about both.
//
//	field.go    names and values
//	request.go  requests, answers, bodies
//	target.go   the target of a request and its path
//	host.go     the authority of a request
//	error.go    why a message is refused, and with which status
//
// It does no I/O.
package message
