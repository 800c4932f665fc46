package tls13

import (
	"crypto/tls"
	"errors"
	"net"
)

// The content types of records. Source: RFC 8446, section 5.1.
const (
	typeChangeCipherSpec = 20
	typeAlert            = 21
	typeHandshake        = 22
	typeData             = 23
)

// The alerts that we send or know. Source: RFC 8446, section 6.
const (
	alertCloseNotify       tls.AlertError = 0
	alertUnexpectedMessage tls.AlertError = 10
	alertBadRecordMAC      tls.AlertError = 20
	alertRecordOverflow    tls.AlertError = 22
	alertDecodeError       tls.AlertError = 50
	alertProtocolVersion   tls.AlertError = 70
	alertInternalError     tls.AlertError = 80
	alertUserCanceled      tls.AlertError = 90
)

// local is the error for what the peer did and we tell it with alert; remote is
// for what it told us. Both look as those of crypto/tls do.
func local(alert tls.AlertError) error  { return &net.OpError{Op: opLocal, Err: alert} }
func remote(alert tls.AlertError) error { return &net.OpError{Op: "remote error", Err: alert} }

// opLocal marks errors of which the peer is to be told.
const opLocal = "local error"

// AlertFor is the alert with which the peer is to be told of err; false when it
// is not: it said so itself, or err is not about its records.
func AlertFor(err error) (tls.AlertError, bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != opLocal {
		return 0, false
	}
	alert, ok := op.Err.(tls.AlertError)
	return alert, ok
}

// IsLocal reports whether err is about records of the peer that broke the rules,
// of which it is to be told; also when it comes from crypto/tls.
func IsLocal(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == opLocal
}
