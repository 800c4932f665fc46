package tls13

import (
	"bytes"
	"crypto/fips140"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
)

// KeyLog takes the traffic secrets of one handshake from crypto/tls and keeps
// them in memory until Take or Wipe. The handshake's goroutine uses it.
type KeyLog struct {
	also           io.Writer // of the configuration that we were given; nil: none
	client, server [maxSecret]byte
	clientLen      int
	serverLen      int
}

// Prepare returns a copy of conf whose handshake leaves its traffic secrets in
// the returned KeyLog, and under which a server sends no session tickets. The
// KeyLog is nil, and conf itself is returned, when crypto/tls has to do the
// records too: in FIPS mode, whose rules are about its own.
func Prepare(conf *tls.Config) (*KeyLog, *tls.Config) {
	if fips140.Enabled() {
		return nil, conf
	}
	k := &KeyLog{also: conf.KeyLogWriter}
	conf = conf.Clone()
	conf.KeyLogWriter = k
	conf.SessionTicketsDisabled = true
	return k, conf
}

// The labels of the secrets that protect application data. Source:
// draft-ietf-tls-keylogfile, section 2.1.
const (
	labelClient = "CLIENT_TRAFFIC_SECRET_0"
	labelServer = "SERVER_TRAFFIC_SECRET_0"
)

// Write takes one line: a label, the client's random, and the secret, in
// hexadecimal. Unlike other writers it wipes the line, which crypto/tls makes
// anew for each call and uses no more.
func (k *KeyLog) Write(line []byte) (int, error) {
	if k.also != nil {
		if _, err := k.also.Write(line); err != nil {
			return 0, err
		}
	}
	defer clear(line)
	defer washPrinter(len(line))
	f := bytes.Fields(line)
	if len(f) != 3 {
		return 0, fmt.Errorf("key log: a line of %d fields", len(f))
	}
	into, n := &k.client, &k.clientLen
	switch string(f[0]) {
	case labelClient:
	case labelServer:
		into, n = &k.server, &k.serverLen
	default:
		return len(line), nil
	}
	if hex.DecodedLen(len(f[2])) > maxSecret {
		return 0, fmt.Errorf("key log: a secret of %d digits", len(f[2]))
	}
	var err error
	*n, err = hex.Decode(into[:], f[2])
	if err != nil {
		return 0, fmt.Errorf("key log: %w", err)
	}
	return len(line), nil
}

// washPrinter overwrites what the line of n bytes has left in the printer that
// crypto/tls made it with: fmt keeps printers, with their text, for the next
// call on the same processor, which this is.
func washPrinter(n int) { _ = fmt.Sprintf("%0*d", n, 0) }

// Take returns the two halves of a connection whose handshake is done, with its
// state as crypto/tls tells it. False means that crypto/tls has to do the
// records. The secrets are wiped in any case.
func (k *KeyLog) Take(state *tls.ConnectionState, client bool) (*Reader, *Writer, bool) {
	defer k.Wipe()
	s, ok := suiteOf(state.CipherSuite)
	if !ok || state.Version != tls.VersionTLS13 || k.clientLen != s.secretLen || k.serverLen != s.secretLen {
		return nil, nil, false
	}
	w := &Writer{keys: keys{suite: s}, most: maxRecords}
	r := &Reader{keys: keys{suite: s}, answer: w, client: client}
	in, out := k.client[:s.secretLen], k.server[:s.secretLen]
	if client {
		in, out = out, in
	}
	if r.use(in) != nil || w.use(out) != nil {
		return nil, nil, false
	}
	return r, w, true
}

// Wipe clears the secrets. Nil is fine.
func (k *KeyLog) Wipe() {
	if k == nil {
		return
	}
	clear(k.client[:])
	clear(k.server[:])
	k.clientLen, k.serverLen = 0, 0
}
