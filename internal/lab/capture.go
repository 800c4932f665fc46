package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Bounds of a capture.
const (
	// maxFrame is more than the largest frame on a veth: generic segmentation
	// offload makes frames of up to 64 KiB and their headers.
	maxFrame = 128 << 10
	// captureBuffer is the kernel's buffer, for bursts.
	captureBuffer = 32 << 20
	// captureLimit is how much a capture looks at before it gives up.
	captureLimit = 1 << 30
)

// Capture listens on an interface and searches what passes for a marker.
type Capture struct {
	fd     int
	file   *os.File
	search *markerSearch
	group  lifecycle.Group
	err    error // why it ended early; valid after Wait
}

// Captured is the result of a capture.
type Captured struct {
	Frames, Bytes int
	Hits          int
	First         *Sighting // nil without hits
}

// Inside runs a function on a thread in a network namespace: a [Namespace], or one
// that was opened.
type Inside interface{ Do(func() error) error }

// StartCapture begins to search what passes an interface of a namespace, in both
// directions. An empty name means all interfaces, also those that come later.
func StartCapture(ctx context.Context, ns Inside, ifName string, marker []byte) (*Capture, error) {
	if len(marker) == 0 {
		return nil, errors.New("capture: the marker is empty")
	}
	c := &Capture{search: newMarkerSearch(marker)}
	if err := ns.Do(func() error { return c.open(ifName) }); err != nil {
		return nil, fmt.Errorf("capture on %q of %v: %w", ifName, ns, err)
	}
	c.file = os.NewFile(uintptr(c.fd), "capture on "+ifName)
	c.group.Go(ctx, "capture", func(context.Context) { c.err = c.read() })
	return c, nil
}

// StartCapture searches what passes between a node and the fabric.
func (l *Lab) StartCapture(ctx context.Context, n *Node, marker []byte) (*Capture, error) {
	return StartCapture(ctx, l.fabric, portName(n.Name), marker)
}

// open makes a packet socket in the namespace of the calling thread.
func (c *Capture) open(ifName string) error {
	// Protocol 0: no packet comes before the socket is bound to its interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	index, err := interfaceIndex(ifName)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index})
	}
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	c.fd = fd
	return nil
}

// interfaceIndex is the kernel's number of an interface; 0, which no name has, means all.
func interfaceIndex(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return iface.Index, nil
}

// read looks at frames until the socket's deadline or the limit.
func (c *Capture) read() error {
	buf := make([]byte, maxFrame)
	for {
		n, err := c.file.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		c.search.add(buf[:n])
		if c.search.bytes > captureLimit {
			return fmt.Errorf("more than %d MiB passed", captureLimit>>20)
		}
	}
}

// settle is how long a capture listens on after it was told to stop, for what
// still waits in the kernel.
const settle = 30 * time.Millisecond

// Stop ends the capture and says what it has seen. It fails when the kernel had
// to drop frames, for then what was not seen may yet have passed.
func (c *Capture) Stop() (Captured, error) {
	err := c.file.SetReadDeadline(time.Now().Add(settle))
	c.group.Wait()
	drops, derr := c.drops()
	if derr == nil && drops > 0 {
		derr = fmt.Errorf("capture: the kernel dropped %d frames", drops)
	}
	if err := errors.Join(err, c.err, derr, c.file.Close()); err != nil {
		return Captured{}, err
	}
	s := c.search
	return Captured{Frames: s.frames, Bytes: s.bytes, Hits: s.hits, First: s.first}, nil
}

// drops asks the kernel how many frames did not fit into its buffer.
func (c *Capture) drops() (n uint32, err error) {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		var stats *unix.TpacketStats
		if stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = stats.Drops
		}
	})
	return n, errors.Join(cerr, err)
}

// htons is for the fields of a socket address that are in network order.
func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
