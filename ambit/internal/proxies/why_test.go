package proxies

import (
	"strings"
	"testing"
)

func TestConnections(t *testing.T) {
	text := `{"open":[{"direction":"outbound","actualDst":"10.0.0.4:80","opened":"2030-01-01T00:00:04Z"}],
		"recent":[
			{"direction":"outbound","actualDst":"10.0.0.3:80","opened":"2030-01-01T00:00:03Z","closed":"2030-01-01T00:00:05Z","bytesSent":7},
			{"direction":"inbound","actualDst":"10.0.0.2:80","opened":"2030-01-01T00:00:02Z","stage":"policy","fault":"policy","error":"denied","hint":"look at shop/deny","policy":"shop/deny"},
			{"direction":"outbound","actualDst":"10.0.0.1:80","opened":"2030-01-01T00:00:01Z"}]}`
	all, err := parseConnections([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	out := only(all, "outbound")
	if len(out) != 3 || out[0].ActualDst != "10.0.0.1:80" || out[2].ActualDst != "10.0.0.4:80" {
		t.Fatalf("outbound = %+v, want the oldest first and the open one last", out)
	}
	if got := out[1].String(); !strings.Contains(got, "ended well after 2s, 7 bytes there") {
		t.Errorf("ended: %s", got)
	}
	if got := out[2].String(); !strings.HasSuffix(got, "is open") {
		t.Errorf("open: %s", got)
	}
	in := only(all, "inbound")
	if got := in[0].String(); !strings.Contains(got, "in plaintext, decided by shop/deny, FAILED at stage policy, fault of policy: denied; look at shop/deny") {
		t.Errorf("refused: %s", got)
	}
	if got := only(append(all, all...), "outbound"); len(got) != whyLines {
		t.Errorf("%d connections are told of, want %d", len(got), whyLines)
	}
}

func FuzzParseConnections(f *testing.F) {
	f.Add([]byte(`{"open":[{"direction":"inbound"}],"recent":[{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := parseConnections(text)
		if err != nil {
			return
		}
		for _, c := range all {
			if strings.TrimSpace(c.String()) == "" {
				t.Fatalf("nothing is said of %+v", c)
			}
		}
	})
}
