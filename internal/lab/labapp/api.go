package labapp

import "time"

// Ports of the servers.
const (
	HTTPPort   = 8080 // HTTP: says who it is and whom it sees
	EchoPort   = 7000 // sends back what it gets
	BannerPort = 7001 // speaks first, then echoes
	SumPort    = 7002 // reads to the end, then answers with length and checksum
	SourcePort = 7003 // gets a number in a line, sends so many bytes
	TickerPort = 7004 // sends a line every 20 ms until the client is gone
	HealthPort = 7005 // gRPC: the health service, always SERVING, and conversations
)

// What a client can be asked to do.
const (
	DoHTTP   = "http"   // Count requests, each on a connection of its own
	DoEcho   = "echo"   // send Text, read it back
	DoBanner = "banner" // connect, read a line, say nothing before
	DoUpload = "upload" // send Bytes, or until told to stop; end; read the sum
	DoFetch  = "fetch"  // get Bytes and compare their sum
	DoWatch  = "watch"  // hold a connection to a ticker and tell each line
	DoTalk   = "talk"   // Count gRPC conversations at once, Rate messages per second each (0: 10), until told to stop
	DoLoad   = "load"   // Rate HTTP requests per second, half on new connections, until told to stop
)

// Request asks for one client.
type Request struct {
	Do       string        `json:"do"`
	Address  string        `json:"address"`
	Text     string        `json:"text,omitempty"` // echo: what is sent; load: a marker that goes into each request and answer
	Count    int           `json:"count,omitempty"`
	Bytes    int64         `json:"bytes,omitempty"` // upload: 0 means until a line arrives
	Rate     int64         `json:"rate,omitempty"`  // upload: bytes per second, 0 means unpaced; load: requests per second
	Timeout  time.Duration `json:"timeout,omitempty"`
	Method   string        `json:"method,omitempty"`   // http: empty means GET
	Path     string        `json:"path,omitempty"`     // http: empty means /
	Header   string        `json:"header,omitempty"`   // http: one more, as "Name: value"
	Statuses bool          `json:"statuses,omitempty"` // http: an answer other than 200 is counted and does not end it
	AtOnce   int           `json:"atOnce,omitempty"`   // http: so many requests at a time; 0 means one after the other
}

// What an HTTP client can ask the server to do, as a header of its request.
const (
	// AskFailFirst holds a name, a space and a number: the first so many requests with
	// that name get 503.
	AskFailFirst = "X-Fail-First"
	// AskFailAt holds the name of a pod: that one answers 503.
	AskFailAt = "X-Fail-At"
	// AskWait holds how long the answer takes, at most maxWait.
	AskWait = "X-Wait"
)

// Hello is what the HTTP server says.
type Hello struct {
	Pod    string `json:"pod"`
	Remote string `json:"remote"` // the address that the server sees
	// Try counts the requests that asked for the same [AskFailFirst], from 1.
	Try int `json:"try,omitempty"`
	// Busy counts what the server had in hand when this began, this included: requests
	// with [AskWait], or conversations.
	Busy int `json:"busy,omitempty"`
}

// Sum is the answer of the summing server, and what an uploader has sent.
type Sum struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// How a connection came to its end, as the client saw it.
const (
	EndedEOF     = "end"
	EndedReset   = "reset"
	EndedTimeout = "timeout"
	EndedOther   = "other"
)

// Load is what came of a load so far.
type Load struct {
	Sent    int            `json:"sent"`
	OK      int            `json:"ok"`
	Failed  int            `json:"failed"`
	New     int            `json:"new"`     // requests on connections of their own
	Servers map[string]int `json:"servers"` // who answered how often
	Busy    int            `json:"busy"`    // talk: the most that a server had in hand
	// First failures, at most maxFailures.
	Failures []Failure     `json:"failures,omitempty"`
	P50      time.Duration `json:"p50"`
	P99      time.Duration `json:"p99"`
	Max      time.Duration `json:"max"`
}

// Failure is a request that was not answered.
type Failure struct {
	At    time.Time     `json:"at"`    // when it began
	After time.Duration `json:"after"` // when it was given up
	New   bool          `json:"new"`   // on a connection of its own
	Local string        `json:"local"` // the client's address
	Error string        `json:"error"`
}

// Reply is a line of a client's answer. Progress lines have Done false.
type Reply struct {
	Done   bool    `json:"done"`
	Error  string  `json:"error,omitempty"` // what went wrong, with Ended
	Ended  string  `json:"ended,omitempty"`
	Local  string  `json:"local,omitempty"` // the client's own address
	Text   string  `json:"text,omitempty"`
	Hellos []Hello `json:"hellos,omitempty"`
	// Statuses counts the answers other than 200.
	Statuses map[int]int `json:"statuses,omitempty"`
	Sent     *Sum        `json:"sent,omitempty"`
	Got      *Sum        `json:"got,omitempty"`
	Ticks    int         `json:"ticks,omitempty"`
	Load     *Load       `json:"load,omitempty"`
}
