package load

import (
	"bytes"
	"context"
	"net"
	"strings"
)

// chainField names the servers that a request has still to visit.
const chainField = "\r\nChain: "

// request is what the generators send on a connection that lives on.
func (o Order) request() []byte { return chainRequest(o.Chain) }

// OneRequest is a request to a web server, for who makes its own connection.
func OneRequest() []byte { return []byte(requestKeep) }

// chainRequest asks a server to ask the servers of chain, one through the other.
func chainRequest(chain []string) []byte {
	if len(chain) == 0 {
		return []byte(requestKeep)
	}
	return []byte(strings.TrimSuffix(requestKeep, headEnd) + chainField + strings.Join(chain, ",") + headEnd)
}

// chainOf reads out of the head of a request whom to ask next, and whom that one.
func chainOf(head []byte) (next string, rest []string) {
	_, line, ok := bytes.Cut(head, []byte(chainField))
	if !ok {
		return "", nil
	}
	line, _, _ = bytes.Cut(line, []byte("\r\n"))
	all := strings.Split(string(line), ",")
	return all[0], all[1:]
}

// serveChain answers each request on c like serveWeb, after it has asked the next
// server of the chain. For each connection it keeps one to the next: a service
// with a pool of connections.
func serveChain(ctx context.Context, c net.Conn) error {
	whole := answer()
	var next nextServer
	defer next.leave()
	return eachRequest(c, func(head []byte) (last bool, err error) {
		if to, rest := chainOf(head); to != "" {
			if err := next.ask(ctx, to, rest); err != nil {
				return false, err
			}
		}
		_, err = c.Write(whole)
		return false, err
	})
}

// nextServer is the connection of one server of a chain to the one behind it.
type nextServer struct {
	answerReader
	addr string
	stop func() bool // forgets to close the connection when all ends
}

// ask sends a request to the server at addr and waits for its answer.
func (n *nextServer) ask(ctx context.Context, addr string, rest []string) error {
	if addr != n.addr {
		n.leave()
		c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		n.answerReader, n.addr = answerReader{c: c}, addr
		n.stop = context.AfterFunc(ctx, func() { c.Close() })
	}
	if _, err := n.c.Write(chainRequest(rest)); err != nil {
		return err
	}
	return n.next()
}

// leave closes the connection, if there is one.
func (n *nextServer) leave() {
	if n.c != nil {
		n.stop()
		n.c.Close()
	}
}
