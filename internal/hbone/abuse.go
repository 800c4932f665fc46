package hbone

import (
	"fmt"
	"time"

	"golang.org/x/net/http2"
)

// A bucket counts what a peer does against a rate. The zero bucket is full.
// Its owner's lock guards it.
type bucket struct {
	spent float64 // tokens not yet earned back
	last  time.Time
}

// take spends n tokens and reports whether they were there.
func (b *bucket) take(r rate, n int, now time.Time) bool {
	if !b.last.IsZero() {
		b.spent = max(0, b.spent-now.Sub(b.last).Seconds()*float64(r.perSecond))
	}
	b.last = now
	b.spent += float64(n)
	return b.spent <= float64(r.burst)
}

// wait spends a token and says how long it is until it is earned. Who does not
// wait owes no more than a second of it.
func (b *bucket) wait(r rate, now time.Time) time.Duration {
	if b.take(r, 1, now) {
		return 0
	}
	b.spent = min(b.spent, float64(r.burst+r.perSecond))
	return time.Duration((b.spent - float64(r.burst)) / float64(r.perSecond) * float64(time.Second))
}

// full reports whether all tokens are there.
func (b *bucket) full(r rate, now time.Time) bool {
	return b.spent <= now.Sub(b.last).Seconds()*float64(r.perSecond)
}

// earn gives n tokens back.
func (b *bucket) earn(n int) { b.spent = max(0, b.spent-float64(n)) }

// abuse holds the buckets of one connection. Only the reader uses them.
type abuse struct {
	ping, settings, control, rapidReset, reset, refused, badRequest, earlyData, emptyData, tinyData, stray, keyUpdate bucket
	sentBefore                                                                                                        uint64 // bytes we had sent when control was last credited
}

// calm is the error for a peer that has passed limit.
func calm(limit Limit, why string, args ...any) *ConnError {
	return &ConnError{Code: http2.ErrCodeEnhanceYourCalm, Limit: limit, Why: fmt.Sprintf(why, args...)}
}

// protocolError is the error for a peer that broke the rules.
func protocolError(code http2.ErrCode, why string, args ...any) *ConnError {
	return &ConnError{Code: code, Why: fmt.Sprintf(why, args...)}
}

// countControl counts a frame that carries nothing.
func (c *conn) countControl() error {
	a := &c.in.abuse
	if sent := c.bytesSent.Load(); sent > a.sentBefore {
		a.control.earn(int(min((sent-a.sentBefore)>>10, uint64(controlRate.burst))))
		a.sentBefore = sent
	}
	if !a.control.take(controlRate, 1, c.in.now()) {
		return calm(LimitControl, "too many frames that carry nothing")
	}
	return nil
}

// countData counts a DATA frame by its size.
func (c *conn) countData(n int, end bool) error {
	a := &c.in.abuse
	switch {
	case n >= tinyData || end:
	case n == 0:
		if !a.emptyData.take(emptyDataRate, 1, c.in.now()) {
			return calm(LimitEmptyData, "too many empty DATA frames")
		}
	default:
		if !a.tinyData.take(c.cfg.tiny, 1, c.in.now()) {
			return calm(LimitTinyData, "too many DATA frames below %d bytes", tinyData)
		}
	}
	return nil
}

// countReset counts a RST_STREAM for an open stream.
func (c *conn) countReset(answered bool) error {
	a := &c.in.abuse
	if !answered && !a.rapidReset.take(rapidResetRate, 1, c.in.now()) {
		return calm(LimitRapidReset, "too many streams reset before they were answered")
	}
	if !a.reset.take(resetRate, 1, c.in.now()) {
		return calm(LimitRapidReset, "too many streams reset")
	}
	return nil
}
