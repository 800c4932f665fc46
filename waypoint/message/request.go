package message

import "io"

// Version is which HTTP carries a message.
type Version uint8

const (
	HTTP11 Version = iota
	HTTP10
	HTTP2
)

// String is the name that logs and policies use.
func (v Version) String() string {
	switch v {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP2:
		return "HTTP/2"
	case HTTP11:
	}
	return "HTTP/1.1"
}

// Unknown is the length of a body of which only its end will tell.
const Unknown = -1

// Request is the head of a request and the way to its body. Fields has what is
// sent on: neither the host, nor what frames the message, nor what is about one
// connection.
type Request struct {
	Version   Version
	Method    string
	Scheme    string // http or https, as the sender says; "" if it does not
	Authority string // as it came
	Host      string // canonical, without port
	Target
	Fields Fields
	// Length of the body in bytes, or [Unknown].
	Length int64
	// Body is nil when there is none.
	Body Body
	// Upgrade is the protocol that the sender wants to change to, such as
	// websocket. Empty: none.
	Upgrade string
	// Trailers is set when the sender takes trailers.
	Trailers bool
}

// Idempotent reports whether doing it twice is doing it once, so that a proxy may send
// the request again when it does not know whether the first one was heard. Source: RFC
// 9110, section 9.2.2.
func (r *Request) Idempotent() bool {
	switch r.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// Response is the head of an answer and the way to its body.
type Response struct {
	Version Version
	Status  int
	Reason  string // HTTP/1 only; may be empty
	Fields  Fields
	Length  int64
	Body    Body // nil when there is none
	// Upgrade is the protocol that a 101 changes to.
	Upgrade string
}

// Informational reports whether a final answer follows. After a 101 there is
// none.
func (r *Response) Informational() bool { return r.Status < 200 && r.Status != 101 }

// Body is what follows a head. One goroutine reads it.
type Body interface {
	// Read reads what has come, and waits when nothing has. It returns io.EOF
	// once the message is complete; any other error means that it never will be.
	Read(p []byte) (int, error)
	// Buffered is how many bytes Read could return now without waiting. Zero may
	// also mean that it is not known.
	Buffered() int
	// Whole reports whether all of it has come and can be read without waiting.
	Whole() bool
	// Trailer is what came behind the body. It is complete after io.EOF.
	Trailer() Fields
}

// Replayed is a body that is in memory.
type Replayed struct {
	Data  []byte
	Tail  Fields
	taken int
}

// Read implements [Body].
func (r *Replayed) Read(p []byte) (int, error) {
	n := copy(p, r.Data[r.taken:])
	if r.taken += n; r.taken == len(r.Data) {
		return n, io.EOF
	}
	return n, nil
}

// Buffered implements [Body].
func (r *Replayed) Buffered() int { return len(r.Data) - r.taken }

// Trailer implements [Body].
func (r *Replayed) Trailer() Fields { return r.Tail }

// Whole implements [Body].
func (r *Replayed) Whole() bool { return true }
