package load

import (
	"errors"
	"fmt"
	"time"
)

// Ports of the servers in a pod.
const (
	WebPort   = 8080 // answers requests; see exchange.go
	BulkPort  = 8081 // takes or sends bytes
	ChainPort = 8082 // asks the next one; see chain.go
	CallPort  = 8083 // answers calls of gRPC; see unary.go
)

// Kind says what a generator does.
type Kind string

// The kinds of load; see the package comment.
const (
	Bulk  Kind = "bulk"
	Rate  Kind = "rate"
	Most  Kind = "most"
	Churn Kind = "churn"
	Hold  Kind = "hold"
	Unary Kind = "unary"
)

// Direction says who sends in a bulk load.
type Direction string

// The directions of a bulk load.
const (
	Up   Direction = "up"   // the client sends
	Down Direction = "down" // the server sends
	Both Direction = "both"
)

// Order asks a pod to make load. Which fields count depends on Kind.
type Order struct {
	Kind Kind `json:"kind"`
	// Address is host:port of the server in the other pod.
	Address string `json:"address"`
	// Connections is how many are open at a time.
	Connections int `json:"connections"`
	// Streams is how many calls unary has under way on each connection.
	Streams int `json:"streams,omitempty"`
	// Direction of bulk.
	Direction Direction `json:"direction,omitempty"`
	// Chain are the servers behind the first, as host:port of their chain ports:
	// each asks the next before it answers. Address is the chain port of the first.
	Chain []string `json:"chain,omitempty"`
	// PerSecond is how many requests a second rate sends over all connections.
	PerSecond int `json:"perSecond,omitempty"`
	// Warm is how long the load runs before what it does is counted as latency.
	Warm time.Duration `json:"warm,omitempty"`
	// Window is how long it runs after that. Zero means until the asker goes;
	// bulk and hold want that.
	Window time.Duration `json:"window,omitempty"`
}

// check refuses what makes no sense.
func (o Order) check() error {
	if o.Connections < 1 {
		return errors.New("want at least one connection")
	}
	timed := false
	switch o.Kind {
	case Bulk:
		if o.Direction != Up && o.Direction != Down && o.Direction != Both {
			return fmt.Errorf("direction %q: want up, down or both", o.Direction)
		}
	case Rate:
		if o.PerSecond < 1 {
			return errors.New("want at least one request a second")
		}
		timed = true
	case Most, Churn:
		timed = true
	case Unary:
		if o.Streams < 1 || o.Streams > maxStreams {
			return fmt.Errorf("%d calls at a time on a connection: want 1 to %d", o.Streams, maxStreams)
		}
		timed = true
	case Hold:
	default:
		return fmt.Errorf("%q is no kind of load", o.Kind)
	}
	if timed != (o.Window > 0) {
		return fmt.Errorf("window of %v for %s", o.Window, o.Kind)
	}
	return nil
}

// Counters are what the programs of a pod have done since they began. They only
// grow.
type Counters struct {
	Received    uint64 `json:"received"`    // bytes of bulk that arrived here
	Answers     uint64 `json:"answers"`     // answers that the generators here have got whole
	Connections uint64 `json:"connections"` // that the generators here have opened and used
}

// Since returns what has been done since an earlier moment.
func (c Counters) Since(earlier Counters) Counters {
	return Counters{
		Received:    c.Received - earlier.Received,
		Answers:     c.Answers - earlier.Answers,
		Connections: c.Connections - earlier.Connections,
	}
}

// Plus adds the counters of another pod.
func (c Counters) Plus(o Counters) Counters {
	return Counters{Received: c.Received + o.Received, Answers: c.Answers + o.Answers, Connections: c.Connections + o.Connections}
}

// Result is what a load of kind rate, most, unary or churn has measured after its
// warming up.
type Result struct {
	// Latency of each exchange, in nanoseconds: of rate from the intended start,
	// of most from the sending, of churn from the dialling. HdrHistogram,
	// encoding V2, base64.
	Latency string `json:"latency,omitempty"`
	// Lateness is how long after the intended moment rate has sent, in the same
	// form.
	Lateness string `json:"lateness,omitempty"`
}

// reply is a line of a pod's answer to an order: first that all connections
// stand, then the end.
type reply struct {
	Running bool   `json:"running,omitempty"`
	Done    bool   `json:"done,omitempty"`
	Error   string `json:"error,omitempty"`
	Result
}
