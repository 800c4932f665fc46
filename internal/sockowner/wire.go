package sockowner

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

const (
	// version is what each frame begins with.
	version = 1

	// addrPortSize is an address and a port in a frame, in bytes.
	addrPortSize = 16 + 2

	// requestSize is version, a reserved byte, and the two ends of a connection.
	requestSize = 2 + 2*addrPortSize

	// answerSize is version and code.
	answerSize = 2

	// maxCgroups is how many cgroups are handed over at most. A node has one kubelet.
	maxCgroups = 4

	// meansSize is version, code, how many cgroups, and room for their numbers.
	meansSize = 3 + 8*maxCgroups
)

// kind is what is asked for.
type kind byte

const (
	kindOwner kind = 0 // whose socket it is
	kindMeans kind = 1 // by what to tell that without us; no addresses
)

// code is the answer on the wire.
type code byte

const (
	codeNobody    code = 0
	codeNode      code = 1
	codeKubelet   code = 2
	codeMeans     code = 3 // a descriptor is beside the answer
	codeMeansAny  code = 4 // the same, and every socket of the node counts
	codeCannotSay code = 255
)

// codeOf is the answer that tells o.
func codeOf(o Owner) code {
	switch {
	case o.Found && o.Kubelet:
		return codeKubelet
	case o.Found:
		return codeNode
	}
	return codeNobody
}

// request is the frame that asks.
type request [requestSize]byte

// kind is what r asks for.
func (r *request) kind() kind { return kind(r[1]) }

// newMeansRequest makes the frame that asks for means.
func newMeansRequest() (r request) {
	r[0], r[1] = version, byte(kindMeans)
	return r
}

// newRequest makes the frame that asks about a connection, or says why the ends
// name none.
func newRequest(client, server netip.AddrPort) (r request, err error) {
	r[0] = version
	if err := put(r[2:], client); err != nil {
		return r, fmt.Errorf("client: %w", err)
	}
	if err := put(r[2+addrPortSize:], server); err != nil {
		return r, fmt.Errorf("server: %w", err)
	}
	return r, check(client, server)
}

// put writes one end of a connection into b.
func put(b []byte, a netip.AddrPort) error {
	if !a.Addr().IsValid() {
		return fmt.Errorf("%v is no address", a)
	}
	if a.Addr().Zone() != "" {
		return fmt.Errorf("%v has a zone, which means nothing elsewhere", a)
	}
	ip := a.Addr().As16()
	copy(b, ip[:])
	binary.BigEndian.PutUint16(b[16:], a.Port())
	return nil
}

// parse reads the frame. It is the only way from outside input to addresses.
func (r *request) parse() (client, server netip.AddrPort, err error) {
	if r[0] != version || r.kind() != kindOwner {
		return client, server, fmt.Errorf("request begins with %d %d, want %d %d", r[0], r[1], version, kindOwner)
	}
	client, server = get(r[2:]), get(r[2+addrPortSize:])
	return client, server, check(client, server)
}

// get reads one end of a connection from b.
func get(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[:16])).Unmap(), binary.BigEndian.Uint16(b[16:]))
}

// check says why two ends cannot be those of a connection.
func check(client, server netip.AddrPort) error {
	switch {
	case client.Addr().Unmap().Is4() != server.Addr().Unmap().Is4():
		return fmt.Errorf("%v and %v are of different address families", client, server)
	case client.Port() == 0 || server.Port() == 0:
		return fmt.Errorf("%v or %v has no port", client, server)
	}
	return nil
}

// parseAnswer reads what the agent says.
func parseAnswer(b [answerSize]byte) (Owner, error) {
	if b[0] != version {
		return Owner{}, fmt.Errorf("the agent speaks version %d, want %d", b[0], version)
	}
	switch code(b[1]) {
	case codeNobody:
		return Owner{}, nil
	case codeNode:
		return Owner{Found: true}, nil
	case codeKubelet:
		return Owner{Found: true, Kubelet: true}, nil
	case codeCannotSay:
		return Owner{}, ErrCannotSay
	}
	return Owner{}, fmt.Errorf("the agent answers %d, which means nothing", b[1])
}

// encode makes the frame beside which the descriptor of m goes.
func (m Means) encode() (b [meansSize]byte) {
	b[0], b[1], b[2] = version, byte(codeMeans), byte(len(m.Cgroups))
	if m.Any {
		b[1] = byte(codeMeansAny)
	}
	for i, id := range m.Cgroups {
		binary.BigEndian.PutUint64(b[3+8*i:], id)
	}
	return b
}

// parseMeans reads what encode has made; Sockets is not in it.
func parseMeans(b [meansSize]byte) (m Means, err error) {
	switch {
	case b[0] != version:
		return Means{}, fmt.Errorf("the agent speaks version %d, want %d", b[0], version)
	case code(b[1]) == codeCannotSay:
		return Means{}, ErrCannotSay
	case code(b[1]) != codeMeans && code(b[1]) != codeMeansAny:
		return Means{}, fmt.Errorf("the agent answers %d, which means nothing", b[1])
	case b[2] > maxCgroups:
		return Means{}, fmt.Errorf("the agent names %d cgroups, want at most %d", b[2], maxCgroups)
	}
	m.Any = code(b[1]) == codeMeansAny
	for i := range int(b[2]) {
		m.Cgroups = append(m.Cgroups, binary.BigEndian.Uint64(b[3+8*i:]))
	}
	return m, m.check()
}
