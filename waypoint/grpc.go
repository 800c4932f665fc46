package waypoint

// grpcMessages counts the messages of a body of gRPC as its bytes pass. Its zero value
// is at the beginning of one.
//
// Source: the gRPC protocol over HTTP/2, Length-Prefixed-Message.
type grpcMessages struct {
	count uint64
	head  [5]byte // of the message: a flag, and its length in four bytes
	have  int     // of head
	left  uint64  // of the message behind the head
}

// pass takes the next bytes. A message counts when its head is there.
func (g *grpcMessages) pass(p []byte) {
	for len(p) > 0 {
		if g.left > 0 {
			n := min(g.left, uint64(len(p)))
			g.left -= n
			p = p[n:]
			continue
		}
		n := copy(g.head[g.have:], p)
		g.have += n
		p = p[n:]
		if g.have == len(g.head) {
			g.have = 0
			g.count++
			g.left = uint64(g.head[1])<<24 | uint64(g.head[2])<<16 | uint64(g.head[3])<<8 | uint64(g.head[4])
		}
	}
}
