package http2

import (
	"time"

	"github.com/ambit-mesh/ambit/internal/h2"
)

// What a peer can make us hold, per connection. All are our choice where no
// source is named.
const (
	// maxStreams is how many requests a peer may have open at once.
	maxStreams = 250
	// streamWindow is how much a peer may send on a stream ahead of who reads it,
	// and connWindow on all together, in bytes. One stream that nobody reads
	// leaves three quarters to the others.
	streamWindow = 256 << 10
	connWindow   = 1 << 20
	// SharedRequests is how many requests of ours may share a connection, and
	// answerWindow is how much a peer may send on it ahead of who reads the answers,
	// in bytes: as much as there can be for clients that do not read. They are other
	// people's, and keep nobody else from an answer.
	SharedRequests = 100
	answerWindow   = SharedRequests * streamWindow
	// maxFrame is the largest payload that we accept, in bytes: the least that
	// may be said. Source: RFC 9113, section 6.5.2.
	maxFrame = 16 << 10
	// maxHeaderList is the largest header, as the peer counts it, in bytes.
	maxHeaderList = 64 << 10
	// maxFields is how many fields a header may have.
	maxFields = 128
	// maxBlock is the largest header block, in bytes: compressed it is shorter
	// than maxHeaderList, unless it is full of what is worth nothing.
	maxBlock = maxHeaderList
	// maxQueued is how many bytes wait for the peer's socket before writers wait
	// themselves; maxAnswers how many answers to control frames.
	maxQueued  = 256 << 10
	maxAnswers = 16 << 10
	// helloTime bounds the wait for the peer's preface and SETTINGS.
	helloTime = 10 * time.Second
	// goAwayTime is how long requests that cross our GOAWAY are still taken.
	goAwayTime = time.Second
)

// Rates at which a peer may send what costs us more than it carries. Honest
// peers do not come near.
var (
	controlRate = h2.Rate{Burst: 20000, PerSecond: 10000} // WINDOW_UPDATE, PRIORITY, unknown frames
	pingRate    = h2.Rate{Burst: 200, PerSecond: 20}      // SETTINGS, and PING for which nothing was sent
	resetRate   = h2.Rate{Burst: 500, PerSecond: 200}     // requests reset before their answer
	refusedRate = h2.Rate{Burst: 500, PerSecond: 100}     // requests beyond maxStreams, or malformed
	emptyRate   = h2.Rate{Burst: 200, PerSecond: 50}      // DATA and CONTINUATION with nothing in them
)
