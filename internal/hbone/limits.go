package hbone

import (
	"cmp"
	"net"
	"time"
)

// Settings of HTTP/2 as the ambient mesh uses them. The ratio of four between
// the windows is on purpose: with equal ones, one stream that nobody reads
// would stop all others of the connection.
const (
	// streamWindow is how much a peer may send on a stream before we give
	// credit, in bytes.
	streamWindow = 4 << 20
	// connWindow is the same for all streams of a connection together.
	connWindow = 16 << 20
	// maxFrame is the largest frame payload we accept, in bytes.
	maxFrame = 1 << 20
	// clientHeaderList and serverHeaderList bound the header of one answer or
	// request, in bytes. Source: RFC 9113, section 6.5.2.
	clientHeaderList = 16 << 10
	serverHeaderList = 64 << 10
	// advertisedStreams is what our server allows: a ztunnel uses up to 100
	// whatever we say, and hangs on the rest if we said less.
	advertisedStreams = 200
	// streamsPerConn is how many streams our client puts on a connection.
	streamsPerConn = 100
	// bulkConns is how many connections one key may have for the sake of bulk.
	bulkConns = 3
	// leaveTime is how long a peer may take for what lies in the socket of a connection
	// that takes no more streams: some MiB at a few hundred kbit/s. One that takes a byte
	// now and then would keep it for ever.
	leaveTime = 2 * time.Minute
	// creditParts: credit is given back when 1/creditParts of a window has been
	// taken by the application.
	creditParts = 4
)

// Limit is the name of a limit, as [Trace.LimitHit] reports it.
type Limit string

// The limits on what a peer can make us hold or do.
const (
	// LimitHandshakes: too many connections that have not finished their
	// handshake, in all or from one address. The oldest of them is closed.
	LimitHandshakes Limit = "handshakes"
	// LimitHandshakeTime: a TLS handshake that does not end.
	LimitHandshakeTime Limit = "handshake-time"
	// LimitSilent: a TCP connection that says nothing.
	LimitSilent Limit = "silent"
	// LimitPreface: TLS without an HTTP/2 preface and SETTINGS after it.
	LimitPreface Limit = "preface"
	// LimitConns: too many connections from one address.
	LimitConns Limit = "connections"
	// LimitPenalty: a connection from an address that was sent away just now. A
	// handshake costs more CPU than most attacks.
	LimitPenalty Limit = "penalty"
	// LimitStreams: a peer that goes on opening streams beyond what SETTINGS
	// allow. Each is refused; who does not stop is sent away.
	LimitStreams Limit = "streams"
	// LimitBadRequests: requests that are answered 400, one after another.
	LimitBadRequests Limit = "bad-requests"
	// LimitHeaderBytes: a header larger than SETTINGS allow.
	LimitHeaderBytes Limit = "header-bytes"
	// LimitContinuation: a header in too many pieces.
	LimitContinuation Limit = "continuation"
	// LimitPing, LimitSettings, LimitControl: frames that cost us an answer or
	// a lock and carry nothing.
	LimitPing     Limit = "ping"
	LimitSettings Limit = "settings"
	LimitControl  Limit = "control"
	// LimitRapidReset: streams opened only to be reset.
	LimitRapidReset Limit = "rapid-reset"
	// LimitEarlyData: DATA before the 2xx. The stream is reset; who does not
	// stop is sent away.
	LimitEarlyData Limit = "early-data"
	// LimitWindow: more DATA than the windows allow, or a window beyond 2^31-1.
	LimitWindow Limit = "window"
	// LimitEmptyData, LimitTinyData: DATA frames with nothing or next to
	// nothing in them.
	LimitEmptyData Limit = "empty-data"
	LimitTinyData  Limit = "tiny-data"
	// LimitStray: DATA on streams that are closed, beyond what can have been on
	// its way when they closed.
	LimitStray Limit = "stray-data"
	// LimitKeyUpdate: a peer that changes its keys all the time, and may have us
	// change ours.
	LimitKeyUpdate Limit = "key-update"
	// LimitAnswers: answers (ACKs, resets) that wait because the peer asks
	// without reading.
	LimitAnswers Limit = "answers"
	// LimitSlowReader: the peer's socket takes nothing while we have something
	// for it.
	LimitSlowReader Limit = "slow-reader"
	// LimitBudget: bytes for an application that does not read, when the budget
	// of the process is used up. The stream is reset.
	LimitBudget Limit = "budget"
)

// rate is a token bucket: Burst at once, then PerSecond.
type rate struct {
	burst, perSecond int
}

// The rates at which a peer may send what costs us more than it carries: per
// connection, and so low that a peer at its limit costs less than a tenth of a
// core, but above what honest peers reach at full load.
const (
	// tinyData is a DATA frame that costs more to handle than it carries, in
	// bytes of payload. A keystroke is one; a flood of them is none.
	tinyData = 32
	// maxContinuation is how many CONTINUATION frames a header may have: at the
	// default frame size of 16 KiB four are enough for serverHeaderList.
	maxContinuation = 8
	// maxAnswers bounds the bytes of answers that wait to be written: some 900
	// PING ACKs of 17 bytes.
	maxAnswers = 16 << 10
)

var (
	// Connections turned away at the door, or gone before they came to it. Each costs
	// some 20 us: those who are inside lose no more than 2 % of a core to it. Who waits
	// before the door waits in the kernel's queue.
	turnedAwayRate = rate{burst: 16, perSecond: 1000}
	// Handshakes of one address: beyond them it waits. Each costs half a
	// millisecond, of which others notice. A pool makes one per 100 streams, one after
	// another.
	handshakeRate = rate{burst: 8, perSecond: 100}
	// A peer sends one PING in ten seconds.
	pingRate = rate{burst: 100, perSecond: 10}
	// A peer sends SETTINGS once, and an ACK.
	settingsRate = rate{burst: 20, perSecond: 1}
	// WINDOW_UPDATE, PRIORITY and unknown frames, and RST_STREAM for streams that
	// are over, which some peers send for each; every KiB we send earns one.
	controlRate = rate{burst: 50000, perSecond: 20000}
	// Streams reset before they were answered: 200 clients of an application that
	// does not answer, each with a timeout of half a second.
	rapidResetRate = rate{burst: 2000, perSecond: 400}
	// Streams reset after they were answered: applications that reset. Each has
	// cost the peer a connection, too.
	resetRate = rate{burst: 10000, perSecond: 5000}
	// Streams beyond the limit: one moment of disagreement about the count.
	refusedRate = rate{burst: 200, perSecond: 10}
	// Requests answered 400: a client of the mesh sends none.
	badRequestRate = rate{burst: 100, perSecond: 10}
	// DATA before 2xx: an honest client waits.
	earlyDataRate = rate{burst: 20, perSecond: 1}
	// Empty DATA without END_STREAM: nobody needs them.
	emptyDataRate = rate{burst: 100, perSecond: 10}
	// Key updates: a peer does one in hundreds of GiB.
	keyUpdateRate = rate{burst: 20, perSecond: 1}
	// Bytes of DATA on closed streams: when we reset a stream, a window of them
	// may be on its way.
	strayRate = rate{burst: 2 * connWindow, perSecond: streamWindow}
	// An application with answers like "+OK": measured, 60000 a second on one
	// connection keep both ends busy; what comes in one batch costs 0.1 us each.
	tinyDataRate = rate{burst: 400000, perSecond: 200000}
)

// Limits tune a [Server]. The zero Limits are ready for use.
type Limits struct {
	// Handshakes is how many connections may be in their handshake at once, and
	// HandshakesPerIP how many of them from one address. Zero means 1024 and 64.
	Handshakes, HandshakesPerIP int
	// ConnsPerIP is how many connections one address may hold. Zero means 512:
	// at 100 streams each, 51200 streams to one pod.
	ConnsPerIP int
	// SilentTime is how long a TCP connection may say nothing, HandshakeTime
	// how long TLS may take from its first byte, PrefaceTime how long the
	// HTTP/2 preface may take after it. Zero means 5 s, 10 s and 5 s. A second and
	// more of silence passes in the kernel first, about as long.
	SilentTime, HandshakeTime, PrefaceTime time.Duration
	// Penalty is how long an address is not let in after its connection was ended
	// for breaking a rule; each further time within a minute doubles it. Zero
	// means 1 s, negative none.
	Penalty time.Duration
	// Streams is how many streams a connection may hold open. Zero means 200.
	// Less than 100 makes a ztunnel hang.
	Streams int
	// HeaderBytes is the largest request header. Zero means 64 KiB.
	HeaderBytes int
}

// withDefaults returns the limits in force.
func (l Limits) withDefaults() Limits {
	l.Handshakes = cmp.Or(l.Handshakes, 1024)
	l.HandshakesPerIP = cmp.Or(l.HandshakesPerIP, 64)
	l.ConnsPerIP = cmp.Or(l.ConnsPerIP, 512)
	l.SilentTime = cmp.Or(l.SilentTime, 5*time.Second)
	l.HandshakeTime = cmp.Or(l.HandshakeTime, 10*time.Second)
	l.PrefaceTime = cmp.Or(l.PrefaceTime, 5*time.Second)
	l.Penalty = max(0, cmp.Or(l.Penalty, time.Second))
	l.Streams = cmp.Or(l.Streams, advertisedStreams)
	l.HeaderBytes = cmp.Or(l.HeaderBytes, serverHeaderList)
	return l
}

// Tuning are the settings that both roles share. The zero Tuning is what
// ztunnel uses.
type Tuning struct {
	// StreamWindow, ConnWindow and FrameSize are what we tell the peer, in
	// bytes. Zero means 4 MiB, 16 MiB and 1 MiB.
	StreamWindow, ConnWindow, FrameSize int
	// PingInterval is the time between PINGs, PingTimeout how long an answer
	// may take. Zero means 10 s and 20 s.
	PingInterval, PingTimeout time.Duration
	// StallTime is how long the peer's socket may take nothing while we have
	// something for it. Zero means 20 s.
	StallTime time.Duration

	// RoundTrip tells how long the way over a socket and back takes at least, so that
	// no more bulk lies before the small messages of other streams than that way needs.
	// With nil as much as StreamWindow may.
	RoundTrip func(net.Conn) (time.Duration, error)

	// StdRecords leaves the records of TLS to crypto/tls, as when keys cannot be
	// had from it: it is slower, and there to compare with.
	StdRecords bool

	tiny   rate          // of tinyDataRate; for tests on slow machines
	linger time.Duration // how long a peer that we send away may read why
}

// withDefaults returns the tuning in force.
func (t Tuning) withDefaults() Tuning {
	t.StreamWindow = clamp(cmp.Or(t.StreamWindow, streamWindow), 64<<10-1, 1<<30)
	t.ConnWindow = clamp(cmp.Or(t.ConnWindow, connWindow), 64<<10-1, 1<<30)
	t.FrameSize = clamp(cmp.Or(t.FrameSize, maxFrame), 16<<10, 1<<24-1)
	t.PingInterval = cmp.Or(t.PingInterval, 10*time.Second)
	t.PingTimeout = cmp.Or(t.PingTimeout, 20*time.Second)
	t.StallTime = cmp.Or(t.StallTime, 20*time.Second)
	t.tiny = cmp.Or(t.tiny, tinyDataRate)
	t.linger = cmp.Or(t.linger, lingerTime)
	return t
}

// clamp returns v, or the end of the range that it passed.
func clamp(v, low, high int) int { return max(low, min(v, high)) }
