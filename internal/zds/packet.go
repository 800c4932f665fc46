package zds

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"unicode/utf8"

	"github.com/ambit-mesh/ambit/internal/meshapi/zdsapi"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const (
	// packetSize is the most a packet may hold, in bytes. The ecosystem's number:
	// its peers read into a buffer of this size.
	packetSize = 1024

	// errorSize is the most text of an error that an answer carries, so that the
	// packet stays below packetSize with its framing.
	errorSize = 900

	// maxFDs is how many descriptors the buffer for a packet has room for. One is
	// wanted; a second shows that the peer is wrong, and is closed.
	maxFDs = 2
)

// packet is what one read gives: a message and the descriptors that came with
// it, which belong to the holder of the packet.
type packet struct {
	data []byte
	fds  []int
}

// drop closes the descriptors of p that nobody took.
func (p *packet) drop() {
	for _, fd := range p.fds {
		unix.Close(fd)
	}
	p.fds = nil
}

// takeFD gives the only descriptor of p to the caller.
func (p *packet) takeFD() (int, error) {
	if len(p.fds) != 1 {
		return -1, protocolError("%d descriptors beside an add, want 1", len(p.fds))
	}
	fd := p.fds[0]
	p.fds = nil
	return fd, nil
}

// protocolError is an error that the peer made.
func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrProtocol, fmt.Errorf(format, args...))
}

// readPacket waits for one packet. When it fails no descriptor is left open:
// they arrive with packets that are cut short or empty too.
func readPacket(c *net.UnixConn) (packet, error) {
	var p packet
	data, oob := make([]byte, packetSize), make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, flags, _, err := c.ReadMsgUnix(data, oob)
	var bad error
	p.fds, bad = readRights(oob[:oobn])
	switch {
	case err != nil:
		// What came with it is closed below.
	case flags&unix.MSG_TRUNC != 0:
		err = protocolError("a packet of more than %d bytes", packetSize)
	case flags&unix.MSG_CTRUNC != 0:
		err = protocolError("more than %d descriptors beside a packet", maxFDs)
	default:
		err = bad
	}
	if err != nil {
		p.drop()
		return packet{}, err
	}
	p.data = data[:n]
	return p, nil
}

// readRights returns the descriptors of an SCM_RIGHTS message, also those in
// front of an error.
func readRights(oob []byte) ([]int, error) {
	var fds []int
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, protocolError("control message: %w", err)
	}
	for _, m := range msgs {
		more, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, protocolError("control message: %w", err)
		}
		fds = append(fds, more...)
	}
	return fds, nil
}

// writePacket sends one packet, with fd beside it unless it is negative.
func writePacket(c *net.UnixConn, data []byte, fd int) error {
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	_, _, err := c.WriteMsgUnix(data, oob, nil)
	return err
}

// encode is proto.Marshal for a message that must fit into a packet.
func encode(m proto.Message) ([]byte, error) {
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(data) > packetSize {
		return nil, fmt.Errorf("a message of %d bytes, a packet holds %d", len(data), packetSize)
	}
	return data, nil
}

// encodeAdd is the message that hands a pod over, or keeps it where its
// namespace is not at hand.
func encodeAdd(pod Pod) ([]byte, error) {
	if pod.NS == nil {
		return encode(&zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Keep{Keep: &zdsapi.KeepWorkload{Uid: pod.UID}}})
	}
	return encode(&zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Add{Add: &zdsapi.AddWorkload{
		Uid: pod.UID,
		WorkloadInfo: &zdsapi.WorkloadInfo{
			Name: pod.Name, Namespace: pod.Namespace, ServiceAccount: pod.ServiceAccount,
		},
	}}})
}

// encodeDel is the message that takes a pod away.
func encodeDel(uid string) ([]byte, error) {
	return encode(&zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_Del{Del: &zdsapi.DelWorkload{Uid: uid}}})
}

// encodeSnapshotSent is the message that ends a snapshot.
func encodeSnapshotSent() ([]byte, error) {
	return encode(&zdsapi.WorkloadRequest{Payload: &zdsapi.WorkloadRequest_SnapshotSent{SnapshotSent: &zdsapi.SnapshotSent{}}})
}

// encodeHello is ztunnel's first message.
func encodeHello() ([]byte, error) { return encode(&zdsapi.ZdsHello{Version: zdsapi.Version_V1}) }

// encodeAck is the answer to a request. An error of nil means done.
func encodeAck(err error) ([]byte, error) {
	text := ""
	if err != nil {
		text = cut(strings.ToValidUTF8(err.Error(), "?"), errorSize)
	}
	return encode(&zdsapi.WorkloadResponse{Payload: &zdsapi.WorkloadResponse_Ack{Ack: &zdsapi.Ack{Error: text}}})
}

// cut shortens valid UTF-8 to at most n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// decodeRequest reads a packet of the agent. Only requests that can be answered
// in this version come back without an error.
func decodeRequest(p *packet) (*zdsapi.WorkloadRequest, error) {
	req := &zdsapi.WorkloadRequest{}
	if err := proto.Unmarshal(p.data, req); err != nil {
		return nil, protocolError("request: %w", err)
	}
	uid := ""
	switch m := req.GetPayload().(type) {
	case *zdsapi.WorkloadRequest_Add:
		uid = m.Add.GetUid()
		if m.Add.GetWorkloadInfo() == nil {
			return nil, protocolError("add of %q without workload_info", uid)
		}
		if len(p.fds) != 1 {
			return nil, protocolError("add of %q with %d descriptors, want 1", uid, len(p.fds))
		}
	case *zdsapi.WorkloadRequest_Keep:
		uid = m.Keep.GetUid()
	case *zdsapi.WorkloadRequest_Del:
		uid = m.Del.GetUid()
	case *zdsapi.WorkloadRequest_SnapshotSent:
		uid = "-"
	default:
		return nil, protocolError("a request of a kind that is not known here")
	}
	if uid == "" {
		return nil, protocolError("a request without a uid")
	}
	if req.GetAdd() == nil && len(p.fds) != 0 {
		return nil, protocolError("%d descriptors beside a request that needs none", len(p.fds))
	}
	return req, nil
}

// decodeHello reads ztunnel's first packet. Any version will do: there is only
// one conversation.
func decodeHello(p *packet) (zdsapi.Version, error) {
	hello := &zdsapi.ZdsHello{}
	if err := decodeBare(p, hello); err != nil {
		return 0, protocolError("hello: %w", err)
	}
	return hello.GetVersion(), nil
}

// decodeAck reads the answer to a request: refused is ztunnel's text, empty when
// it did what it was told.
func decodeAck(p *packet) (refused string, err error) {
	resp := &zdsapi.WorkloadResponse{}
	if err := decodeBare(p, resp); err != nil {
		return "", protocolError("answer: %w", err)
	}
	if resp.GetAck() == nil {
		return "", protocolError("an answer that is not an ack")
	}
	return resp.GetAck().GetError(), nil
}

// errDescriptors is what ztunnel gets for descriptors: it has none to give.
var errDescriptors = errors.New("came with descriptors")

// decodeBare reads a message that no descriptor may come with.
func decodeBare(p *packet, m proto.Message) error {
	if len(p.fds) != 0 {
		return errDescriptors
	}
	return proto.Unmarshal(p.data, m)
}
