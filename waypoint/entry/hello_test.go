package entry

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/cryptobyte"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// half is a stream that gives bytes and then ends.
type half struct {
	net.Conn
	r io.Reader
}

func (h *half) Read(p []byte) (int, error) { return h.r.Read(p) }
func (h *half) CloseWrite() error          { return nil }

// pipeHalf makes a stream of bytes; the deadlines are those of a pipe.
func pipeHalf(t testing.TB, content []byte) Raw {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return &half{Conn: a, r: bytes.NewReader(content)}
}

// hello is what crypto/tls's client says first.
func hello(t testing.TB, name string) []byte {
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}).Handshake()
	}()
	var head [5]byte
	if _, err := io.ReadFull(b, head[:]); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	a.Close()
	return append(head[:], body...)
}

func TestServerName(t *testing.T) {
	long := append([]byte{22, 3, 1, 0x3f, 0xff, 1, 0, 0xff, 0xff}, bytes.Repeat([]byte{0}, 40<<10)...)
	whole := hello(t, "orders.shop.example")
	tests := []struct {
		name, want string
		content    []byte
		err        error
	}{
		{"a name", "orders.shop.example", whole, nil},
		{"more behind it", "orders.shop.example", append(bytes.Clone(whole), "more"...), nil},
		{"none", "", hello(t, ""), nil},
		{"HTTP", "", []byte("GET / HTTP/1.1\r\n\r\n"), ErrNoHello},
		{"nothing", "", nil, ErrNoHello},
		{"half of it", "", whole[:len(whole)/2], ErrNoHello},
		{"without end", "", long, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name, rest, err := ServerName(t.Context(), pipeHalf(t, tt.content))
			if name != tt.want || tt.err != nil && !errors.Is(err, tt.err) {
				t.Fatalf("%q, %v, want %q, %v", name, err, tt.want, tt.err)
			}
			if tt.name == "without end" && err == nil {
				t.Fatal("no error")
			}
			all, err := io.ReadAll(rest)
			if err != nil || !bytes.Equal(all, tt.content) {
				t.Errorf("%d bytes are left, %v, want %d", len(all), err, len(tt.content))
			}
		})
	}
}

// nameOf reads the server name in another way, as an oracle: of a whole message in
// one record only.
func nameOf(content []byte) (name string, ok bool) {
	s := cryptobyte.String(content)
	var kind uint8
	var version, rest uint16
	var record, message, session, suites, methods, extensions cryptobyte.String
	if !s.ReadUint8(&kind) || kind != 22 || !s.ReadUint16(&version) || !s.ReadUint16LengthPrefixed(&record) ||
		!record.ReadUint8(&kind) || kind != 1 || !record.ReadUint24LengthPrefixed(&message) ||
		!message.ReadUint16(&rest) || !message.Skip(32) || !message.ReadUint8LengthPrefixed(&session) ||
		!message.ReadUint16LengthPrefixed(&suites) || !message.ReadUint8LengthPrefixed(&methods) || !message.ReadUint16LengthPrefixed(&extensions) {
		return "", false
	}
	for !extensions.Empty() {
		var id uint16
		var data, list, host cryptobyte.String
		if !extensions.ReadUint16(&id) || !extensions.ReadUint16LengthPrefixed(&data) {
			return "", false
		}
		if id == 0 && data.ReadUint16LengthPrefixed(&list) && list.ReadUint8(&kind) && kind == 0 && list.ReadUint16LengthPrefixed(&host) {
			return string(host), true
		}
	}
	return "", true
}

// Whatever comes: no byte is lost, no more is read than the limit says, and a name
// that is found is the one that stands there.
func FuzzServerName(f *testing.F) {
	f.Add(hello(f, "orders.shop.example"))
	f.Add(hello(f, ""))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		src := pipeHalf(t, content)
		name, rest, err := ServerName(t.Context(), src)
		if n := len(rest.(*Early).First); n > helloBytes {
			t.Fatalf("%d bytes were read", n)
		}
		all, readErr := io.ReadAll(rest)
		if readErr != nil || !bytes.Equal(all, content) {
			t.Fatalf("%d bytes are left, %v, want %d", len(all), readErr, len(content))
		}
		if want, ok := nameOf(content); err == nil && ok && strings.TrimSuffix(want, ".") != strings.TrimSuffix(name, ".") {
			t.Fatalf("name %q, want %q", name, want)
		}
	})
}
