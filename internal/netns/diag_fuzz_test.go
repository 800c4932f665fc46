package netns

import (
	"encoding/binary"
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzReadAnswer: whatever comes instead of an answer, reading ends, and a socket
// is read only from an answer to the question that was asked.
func FuzzReadAnswer(f *testing.F) {
	const seq = 7
	message := func(kind uint16, seq uint32, body []byte) []byte {
		b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
		binary.NativeEndian.PutUint32(b, uint32(unix.SizeofNlMsghdr+len(body)))
		binary.NativeEndian.PutUint16(b[4:], kind)
		binary.NativeEndian.PutUint32(b[8:], seq)
		return append(b, body...)
	}
	none := binary.NativeEndian.AppendUint32(nil, ^uint32(syscall.ENOENT)+1)
	f.Add(message(sockDiagByFamily, seq, make([]byte, diagMessageSize)))
	f.Add(message(sockDiagByFamily, seq+1, make([]byte, diagMessageSize)))
	f.Add(message(syscall.NLMSG_ERROR, seq, none))
	f.Add(message(syscall.NLMSG_DONE, seq, nil))
	if _, err := readAnswer(message(syscall.NLMSG_ERROR, seq, none), seq); !errors.Is(err, syscall.ENOENT) {
		f.Errorf("the error of the kernel is %v, want ENOENT", err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := readAnswer(b, seq)
		if err != nil {
			return
		}
		if binary.NativeEndian.Uint32(b[8:]) != seq || len(body) != len(b)-unix.SizeofNlMsghdr {
			t.Errorf("%x is taken for the answer to %d", b, seq)
		}
		if s, err := readDiag(body); err == nil && (!s.Local.Addr().IsValid() || !s.Remote.Addr().IsValid()) {
			t.Errorf("%x is read as %+v", b, s)
		}
	})
}
