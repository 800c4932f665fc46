package waypoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/waypoint/upstream"
)

// stressTime is how long requests are made; the environment variable stressEnv may
// say another time.
const (
	stressTime = 2500 * time.Millisecond
	stressEnv  = "AMBIT_STRESS"
)

// talkTime is the longest that a conversation may take, and tellTime the longest
// until an endpoint knows that its client has gone. None lasts a second by itself, but
// for a machine that has much else to do.
const (
	talkTime = 2 * patience
	tellTime = patience
)

// moment is when one side leaves a conversation.
type moment string

// The moments.
const (
	never      moment = ""
	waiting    moment = "while it waits for the answer's header"
	uploading  moment = "in the middle of the request's body"
	headed     moment = "after the answer's header"
	answering  moment = "in the middle of the answer's body"
	notReading moment = "after a while in which it reads nothing"
)

// talk is a conversation as it is planned: what the client says and what the endpoint
// answers. It is not changed once it has begun.
type talk struct {
	id   int
	h2   bool
	port int
	path string // the first element chooses the route

	// The client.
	method     string
	up         []int // pieces of the request's body
	counted    bool
	upPause    time.Duration
	afterHead  bool // the body is sent only when the answer's header is there
	expect     bool // 100-continue
	upTrailer  bool
	leaves     moment
	leaveAfter time.Duration

	// The endpoint.
	hints       int
	readsFirst  bool // before it answers
	ignores     bool // the body
	down        []int
	downCounted bool
	downPause   time.Duration
	downTrailer bool
	waits       bool // for the end of its client
	dies        moment
	diesOnce    bool
}

// sum adds up.
func sum(pieces []int) (n int) {
	for _, p := range pieces {
		n += p
	}
	return n
}

// maxSaid is more than a side says in a conversation, in bytes.
const maxSaid = 4 << 20

// said is what everybody says, from a place of its own on.
var said = sync.OnceValue(func() []byte {
	p := make([]byte, 2*maxSaid)
	rand.NewChaCha8([32]byte{}).Read(p)
	return p
})

// contentOf is what a side says in a conversation. Nobody writes to it.
func contentOf(id, n int) []byte {
	from := (id&0xffff*7919 + n) % maxSaid
	return said()[from : from+n]
}

// pick is one of several.
func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// somePieces are sizes of pieces.
func somePieces(r *rand.Rand) []int {
	out := make([]int, r.IntN(5))
	for i := range out {
		out[i] = pick(r, 1, 7, 100, 4000, 16<<10, 40_000, 70_000)
	}
	if r.IntN(40) == 0 {
		out = append(out, 1<<20)
	}
	return out
}

// plan makes a conversation up.
func plan(seed uint64, id int) *talk {
	r := rand.New(rand.NewPCG(seed, uint64(id)))
	sometimes := func(n int) bool { return r.IntN(n) == 0 }
	pause := func() time.Duration { return time.Duration(pick(r, 0, 0, 0, 1, 5)) * time.Millisecond }
	t := &talk{
		id: id, h2: sometimes(2), port: pick(r, 80, 80, 81), path: pick(r, "/plain", "/plain", "/plain", "/again", "/late", "/copied", "/few"),
		method: pick(r, "GET", "POST", "POST", "PUT"), hints: max(0, r.IntN(6)-3),
		readsFirst: sometimes(2), downCounted: sometimes(2), downTrailer: sometimes(3), down: somePieces(r), downPause: pause(),
	}
	if t.method != "GET" {
		t.up, t.upPause = somePieces(r), pause()
		t.counted = sometimes(2)
		t.upTrailer = !t.counted && sometimes(2)
		t.expect = sometimes(6)
		t.ignores = sometimes(8)
		t.afterHead = !t.readsFirst && !t.expect && !t.ignores && sometimes(4)
	}
	if t.downCounted {
		t.downTrailer = false
		t.down = append(t.down, 1) // an answer of nothing ends with its header
	}
	switch r.IntN(10) {
	case 0:
		t.leaves, t.waits, t.readsFirst, t.afterHead, t.ignores = waiting, true, true, false, false
	case 1:
		t.leaves = pick(r, headed, answering, notReading)
	case 2:
		if len(t.up) > 0 {
			t.leaves = uploading
		}
	case 3:
		t.dies = pick(r, waiting, headed, answering)
		t.diesOnce = sometimes(2)
		t.afterHead = t.afterHead && t.dies != waiting // net/http reads the body before it gives up
	}
	if t.ignores || t.dies != never {
		t.upTrailer = false // net/http ends a connection on which the trailer of a stream comes that it has ended
	}
	t.leaveAfter = time.Duration(r.IntN(30)) * time.Millisecond
	if t.leaves == notReading || t.leaves == answering {
		t.down = append(t.down, 1<<20)
	}
	return t
}

// tooMuch is a body, in bytes, that net/http does not read for a handler that does not
// want it: it closes the connection, and what it has answered may be lost.
const tooMuch = 200 << 10

// faulty reports whether one side breaks off, or something else may.
func (t *talk) faulty() bool {
	return t.leaves != never || t.dies != never || t.path == "/late" || t.path == "/few" || t.ignores && sum(t.up) > tooMuch
}

// crossed reports whether a request of HTTP/1.1 has met the end of a kept connection,
// on either side, and the endpoint has not heard it: that cannot be helped, where it is
// not sent again.
func (s *stage) crossed(t *talk, h *heard, err error) bool {
	if t.h2 || h.calls > 0 {
		return false
	}
	answered := strings.HasPrefix(err.Error(), "status ")
	for end := time.Now().Add(patience); answered && time.Now().Before(end); {
		if rec := s.record(t); rec != nil { // it is written behind the answer
			return rec["details"] == upstream.ErrReused.Error()
		}
		_ = lifecycle.Sleep(s.t.Context(), time.Millisecond)
	}
	return !answered
}

// heard is what an endpoint has noticed of a conversation.
type heard struct {
	mu    sync.Mutex
	calls int
	wrong string    // what must not be
	under int       // calls under way
	over  sync.Cond // of mu: one of them has ended
}

// fault notes something that must not be.
func (h *heard) fault(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wrong == "" {
		h.wrong = fmt.Sprintf(format, args...)
	}
}

// leave ends a call.
func (h *heard) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.under--
	h.over.Broadcast()
}

// stage is where conversations take place.
type stage struct {
	t    *testing.T
	w    *world
	seed uint64
	// ending is set when the waypoint stops, which requests may notice.
	ending atomic.Bool

	mu    sync.Mutex
	held  int           // requests that are still to come to /hold
	all   chan struct{} // closed when they have
	talks map[int]*talk
	heard map[int]*heard
}

// of finds a conversation.
func (s *stage) of(r *http.Request) (*talk, *heard) {
	id, err := strconv.Atoi(r.Header.Get("X-Talk"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || s.talks[id] == nil {
		return nil, nil
	}
	return s.talks[id], s.heard[id]
}

// ServeHTTP is the endpoint.
func (s *stage) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/hold") {
		s.holdAll(r)
		return
	}
	t, h := s.of(r)
	if t == nil {
		return
	}
	h.mu.Lock()
	h.calls++
	h.under++
	first := h.calls == 1
	h.mu.Unlock()
	defer h.leave()
	rc := http.NewResponseController(rw)
	if !t.readsFirst && !t.ignores {
		rc.EnableFullDuplex()
	}
	for range t.hints {
		rw.WriteHeader(http.StatusEarlyHints)
		if r.Context().Err() != nil {
			return // a server whose client has gone may still be writing the header of these hints
		}
	}
	dies := t.dies
	if t.diesOnce && !first {
		dies = never
	}
	if t.readsFirst && !t.hear(r, h) {
		panic(http.ErrAbortHandler)
	}
	if t.waits {
		select {
		case <-r.Context().Done():
		case <-time.After(tellTime):
			h.fault("nobody told the endpoint that its client has gone")
		}
		panic(http.ErrAbortHandler)
	}
	if dies == waiting {
		panic(http.ErrAbortHandler)
	}
	t.say(rw, r, rc, h, dies)
}

// hear reads the request. It returns false when it did not come whole.
func (t *talk) hear(r *http.Request, h *heard) bool {
	if t.ignores {
		return true
	}
	body, err := io.ReadAll(r.Body)
	want := contentOf(t.id, sum(t.up))
	switch {
	case err != nil && (!bytes.HasPrefix(want, body) || t.leaves == never && t.path != "/late"):
		h.fault("reading the request: %v after %d of %d bytes", err, len(body), len(want))
	case err != nil:
		return false
	case !bytes.Equal(body, want):
		h.fault("%d bytes came as a whole request of %d", len(body), len(want))
	case t.upTrailer && r.Trailer.Get("X-Up") != strconv.Itoa(t.id):
		h.fault("the request's trailer is %v", r.Trailer)
	}
	return err == nil
}

// say answers.
func (t *talk) say(rw http.ResponseWriter, r *http.Request, rc *http.ResponseController, h *heard, dies moment) {
	if t.downCounted {
		rw.Header().Set("Content-Length", strconv.Itoa(sum(t.down)))
	}
	if t.downTrailer {
		rw.Header().Set("Trailer", "X-Down")
	}
	if !t.readsFirst || dies == headed || dies == answering {
		rw.WriteHeader(200)
		rc.Flush()
	}
	if !t.readsFirst && !t.hear(r, h) {
		panic(http.ErrAbortHandler)
	}
	if dies == headed {
		panic(http.ErrAbortHandler)
	}
	rest := contentOf(^t.id, sum(t.down))
	for i, n := range t.down {
		if _, err := rw.Write(rest[:n]); err != nil {
			return
		}
		rest = rest[n:]
		if dies == answering && i == len(t.down)/2 {
			rc.Flush()
			panic(http.ErrAbortHandler)
		}
		if t.downPause > 0 {
			rc.Flush()
			_ = lifecycle.Sleep(r.Context(), t.downPause)
		}
	}
	if dies == answering {
		panic(http.ErrAbortHandler)
	}
	if t.downTrailer {
		rw.Header().Set("X-Down", strconv.Itoa(t.id))
	}
}

var errLeft = errors.New("the client has left")

// speaker is the request's body as the client says it.
type speaker struct {
	t     *talk
	rest  []byte
	piece int
	head  <-chan struct{} // the answer's header is there
	ctx   context.Context
}

// Read says a piece.
func (s *speaker) Read(p []byte) (int, error) {
	if s.t.afterHead && s.piece == 0 {
		select {
		case <-s.head:
		case <-s.ctx.Done():
			return 0, s.ctx.Err()
		}
	}
	if s.t.leaves == uploading && s.piece == len(s.t.up)/2 {
		return 0, errLeft
	}
	if s.piece == len(s.t.up) {
		return 0, io.EOF
	}
	if s.piece > 0 && s.t.upPause > 0 {
		_ = lifecycle.Sleep(s.ctx, s.t.upPause)
	}
	n := copy(p, s.rest[:s.t.up[s.piece]])
	s.rest = s.rest[n:]
	if s.t.up = slices.Clone(s.t.up); s.t.up[s.piece] == n {
		s.piece++
	} else {
		s.t.up[s.piece] -= n
	}
	return n, nil
}

// request is the client's part of a conversation.
func (t *talk) request(ctx context.Context, head <-chan struct{}) *http.Request {
	own := *t
	var body io.Reader
	if t.method != "GET" {
		body = &speaker{t: &own, rest: contentOf(t.id, sum(t.up)), head: head, ctx: ctx}
	}
	req, _ := http.NewRequestWithContext(ctx, t.method, "http://orders.shop"+t.path, body)
	req.Header.Set("X-Talk", strconv.Itoa(t.id))
	req.Header.Set("X-Request-Id", "talk-"+strconv.Itoa(t.id))
	switch {
	case body == nil:
	case t.counted && sum(t.up) == 0:
		req.Body = http.NoBody
	case t.counted:
		req.ContentLength = int64(sum(t.up))
	default:
		req.ContentLength = -1
	}
	if t.upTrailer {
		req.Trailer = http.Header{"X-Up": {strconv.Itoa(t.id)}}
	}
	if t.expect {
		req.Header.Set("Expect", "100-continue")
	}
	return req
}

// run holds a conversation and says what was wrong with it; "" if nothing was.
func (s *stage) run(t *talk, c *http.Client) string {
	h := &heard{}
	h.over.L = &h.mu
	s.mu.Lock()
	s.talks[t.id], s.heard[t.id] = t, h
	s.mu.Unlock()
	whole, begun := context.WithTimeout(context.WithoutCancel(s.t.Context()), talkTime)
	defer begun()
	ctx, leave := context.WithCancel(whole)
	defer leave()
	if t.leaves == waiting {
		defer time.AfterFunc(t.leaveAfter, leave).Stop()
	}
	head := make(chan struct{})
	resp, err := c.Do(t.request(ctx, head))
	close(head)
	if err == nil {
		err = t.listen(resp, leave, h)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for t.waits && h.under > 0 {
		h.over.Wait() // it says when nobody tells it
	}
	switch {
	case whole.Err() != nil:
		return fmt.Sprintf("it hangs: %v", err)
	case h.wrong != "":
		return h.wrong
	case err == nil && t.leaves != never:
		return "" // it came before the client left
	case err != nil && !t.faulty() && !s.ending.Load() && !s.crossed(t, h, err):
		return fmt.Sprintf("nobody left, and yet: %v", err)
	case h.calls > 1 && t.path == "/plain" && t.method == "POST" && len(t.up) > 0:
		return fmt.Sprintf("the endpoint got %d requests of one", h.calls)
	}
	return ""
}

// listen reads the answer. The error says why it is not whole.
func (t *talk) listen(resp *http.Response, leave func(), h *heard) error {
	defer resp.Body.Close()
	var got bytes.Buffer
	switch t.leaves {
	case headed:
		leave()
	case notReading:
		_ = lifecycle.Sleep(resp.Request.Context(), t.leaveAfter)
		leave()
	case answering:
		io.CopyN(&got, resp.Body, int64(sum(t.down)/2))
		leave()
	}
	_, err := got.ReadFrom(resp.Body)
	want := contentOf(^t.id, sum(t.down))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != 200:
		return fmt.Errorf("status %d: %s", resp.StatusCode, got.String())
	case !bytes.Equal(got.Bytes(), want):
		h.fault("%d bytes came as a whole answer of %d", got.Len(), len(want))
	case t.downTrailer && resp.Trailer.Get("X-Down") != strconv.Itoa(t.id):
		h.fault("the answer's trailer is %v", resp.Trailer)
	}
	return nil
}

// stressRules: few connections and routes of every kind.
const stressRules = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 6}, http: {http1MaxPendingRequests: 1000, maxRequestsPerConnection: 50}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: few, namespace: shop}
spec: {host: few, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 3}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
  - {match: [{uri: {prefix: /again}}], retries: {attempts: 3, retryOn: "5xx,reset,connect-failure"}, route: [{destination: {host: orders}}]}
  - {match: [{uri: {prefix: /late}}], timeout: 40ms, retries: {attempts: 0}, route: [{destination: {host: orders}}]}
  - {match: [{uri: {prefix: /copied}}], mirror: {host: shadow}, retries: {attempts: 0}, route: [{destination: {host: orders}}]}
  - {match: [{uri: {prefix: /few}}], retries: {attempts: 0}, route: [{destination: {host: few, port: {number: 80}}}]}
  - {retries: {attempts: 0}, route: [{destination: {host: orders}}]}
`

// Whatever the two sides do: a request ends in time, what arrives is whole or seen not
// to be, an endpoint learns that its client has gone, no place is lost, and nothing is
// left behind.
func TestConversations(t *testing.T) {
	seed, length := rand.Uint64(), stressTime
	if text := os.Getenv(stressEnv); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", stressEnv, err)
		}
	}
	t.Logf("seed %d", seed)
	w := newWorld(t)
	s := &stage{t: t, w: w, seed: seed, talks: map[int]*talk{}, heard: map[int]*heard{}}
	const port = "{name: any, port: 80, targetPort: 8080, appProtocol: http}, {name: two, port: 81, targetPort: 8080, appProtocol: http2}"
	orders := w.service("orders", port, 2, s)
	w.service("few", port, 1, s)
	w.service("shadow", port, 1, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	w.apply("rules", stressRules)
	c := w.client("web")
	clients := map[string]*http.Client{}
	for _, port := range []int{80, 81} {
		for _, h2 := range []bool{false, true} {
			hc := c.http(orders, port, h2)
			clients[fmt.Sprint(port, h2)] = hc
			w.eventually("the service is served", func() bool {
				return get(t.Context(), hc, "GET", "/few/x").status == 200 && w.condition("VirtualService", "orders") != "" && w.condition("DestinationRule", "orders") != ""
			})
		}
	}
	s.storm(clients, length, 0)
	if t.Failed() {
		return
	}
	s.placesLeft(clients)
	s.drain(clients)
}

// record is what the waypoint has noted of a conversation.
func (s *stage) record(t *talk) map[string]any {
	for _, rec := range s.w.records() {
		if rec["request_id"] == "talk-"+strconv.Itoa(t.id) {
			return rec
		}
	}
	return nil
}

// storm holds conversations, many at once, and stops at the first that goes wrong.
func (s *stage) storm(clients map[string]*http.Client, length time.Duration, from int) {
	end := time.Now().Add(length)
	var wg sync.WaitGroup
	next := make(chan int)
	for range 24 {
		wg.Go(func() {
			for id := range next {
				if s.ending.Load() {
					_ = lifecycle.Sleep(s.t.Context(), 10*time.Millisecond) // all that begins is refused
				}
				t := plan(s.seed, id)
				if wrong := s.run(t, clients[fmt.Sprint(t.port, t.h2)]); wrong != "" {
					s.t.Errorf("seed %d: %+v: %s; record %v", s.seed, *t, wrong, s.record(t))
				}
			}
		})
	}
	n := from
	for ; time.Now().Before(end) && !s.t.Failed(); n++ {
		next <- n
	}
	close(next)
	wg.Wait()
	s.t.Logf("%d conversations", n-from)
	if s.t.Failed() {
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	}
}

// placesLeft shows that every connection and request that was counted has been given
// back: as many as the limits allow are held at once.
func (s *stage) placesLeft(clients map[string]*http.Client) {
	for _, tt := range []struct {
		name, path string
		n          int
		h2         bool
	}{
		{"requests", "/few/hold", 3, true}, {"connections", "/plain/hold", 6, false},
	} {
		s.mu.Lock()
		s.held, s.all = tt.n, make(chan struct{})
		s.mu.Unlock()
		var wg sync.WaitGroup
		for range tt.n {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(s.t.Context(), talkTime)
				defer cancel()
				if a := get(ctx, clients[fmt.Sprint(80, tt.h2)], "GET", tt.path); a.status != 200 {
					s.t.Errorf("%d %s at once: %+v", tt.n, tt.name, a)
				}
			})
		}
		wg.Wait()
	}
}

// holdAll holds a request until as many are here as are wanted.
func (s *stage) holdAll(r *http.Request) {
	s.mu.Lock()
	all := s.all
	if s.held--; s.held == 0 {
		close(all)
	}
	s.mu.Unlock()
	select {
	case <-all:
	case <-r.Context().Done():
	}
}

// drain ends the waypoint while conversations are held: each comes to an end, and so
// does the waypoint.
func (s *stage) drain(clients map[string]*http.Client) {
	defer time.AfterFunc(300*time.Millisecond, func() {
		s.ending.Store(true)
		s.w.stop()
	}).Stop()
	s.storm(clients, 800*time.Millisecond, 1<<30)
	select {
	case <-s.w.done:
	case <-time.After(talkTime):
		s.t.Error("the waypoint does not end")
	}
}
