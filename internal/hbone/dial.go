package hbone

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"

	"github.com/ambit-mesh/ambit/internal/hbone/tls13"
)

// dial makes a connection to the peer: TCP, TLS, and SETTINGS of both sides, so
// that a peer that does not want our certificate has said so. The connection
// lives until ctx ends or it fails.
func (p *Pool) dial(ctx context.Context, t Target) (*conn, error) {
	limited, stop := context.WithTimeoutCause(ctx, p.cfg.DialTimeout, ErrHandshakeTimeout)
	defer stop()
	conf, err := t.TLS(limited)
	if err != nil {
		return nil, &DialError{StageTLS, err}
	}
	raw, err := t.Dial(limited)
	if err != nil {
		return nil, &DialError{StageDial, err}
	}
	c, err := p.handshake(limited, t.Key, raw, conf)
	if err != nil {
		raw.Close()
		return nil, &DialError{StageTLS, err}
	}
	if !p.begin(ctx, c) {
		c.discard()
		return nil, ErrDraining
	}
	select {
	case <-c.up:
		if !c.allowsStreams() {
			c.leave(errNoStreams)
			return nil, &DialError{StageH2, errNoStreams}
		}
		return c, nil
	case <-limited.Done():
		c.fail(context.Cause(limited))
		<-c.done
	case <-c.done:
	}
	return nil, &DialError{StageH2, c.err}
}

// begin serves c, so that Close finds it. It reports false when the pool is closed.
func (p *Pool) begin(ctx context.Context, c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !p.group.run(func() { c.run(ctx) }) {
		return false
	}
	p.alive[c] = struct{}{}
	return true
}

// handshake does the client's part of TLS.
func (p *Pool) handshake(ctx context.Context, key Key, raw net.Conn, conf *tls.Config) (*conn, error) {
	rec := newRecordConn(raw, p.cfg.Budget)
	keys, conf := p.cfg.prepare(conf)
	defer keys.Wipe()
	tc := tls.Client(rec, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		rec.drop()
		return nil, causeOf(ctx, err)
	}
	state := tc.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		rec.drop()
		return nil, errNotH2
	}
	info := ConnInfo{Local: addrPort(raw.LocalAddr()), Remote: addrPort(raw.RemoteAddr()), Key: key, TLS: &state}
	cfg := p.connConfig()
	cfg.keys = keys
	return newConn(cfg, rec, tc, info), nil
}

// connConfig is what connections of the pool share.
func (p *Pool) connConfig() connConfig {
	return connConfig{
		Tuning: p.cfg.Tuning, headerBytes: clientHeaderList, idleTimeout: p.cfg.IdleTimeout,
		budget: p.cfg.Budget, trace: p.trace, group: &p.group, onGone: p.connGone,
	}
}

// prepare returns conf for our own records, with where their keys will be, or
// else conf with full records from the start: what those cost is latency of the
// first bytes over a slow link, and CPU is what we are short of.
func (t Tuning) prepare(conf *tls.Config) (*tls13.KeyLog, *tls.Config) {
	var keys *tls13.KeyLog
	if !t.StdRecords {
		keys, conf = tls13.Prepare(conf)
	}
	if conf.DynamicRecordSizingDisabled {
		return keys, conf
	}
	if keys == nil {
		conf = conf.Clone()
	}
	conf.DynamicRecordSizingDisabled = true
	return keys, conf
}

// causeOf is why ctx ended, if it has, else err.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// addrPort is the address of a net.Addr, unmapped; zero when it is none.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	if a == nil {
		return netip.AddrPort{}
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
