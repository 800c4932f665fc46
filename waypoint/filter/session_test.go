package filter

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/waypoint/message"
)

// What an answer carries a request brings back, until its time is over.
func TestSession(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, tt := range []struct {
		name string
		s    *waypointapi.Session
		want string // in the cookie
	}{
		{"cookie", &waypointapi.Session{Name: "sid", AbsoluteTimeout: durationpb.New(time.Hour)}, "; HttpOnly; Path=/"},
		{"permanent cookie", &waypointapi.Session{Name: "sid", Path: "/a", Permanent: true, AbsoluteTimeout: durationpb.New(time.Hour)}, "Path=/a; Max-Age=3600"},
		{"header", &waypointapi.Session{Name: "x-session", Header: true, AbsoluteTimeout: durationpb.New(time.Hour)}, ""},
	} {
		s, err := CompileSession(tt.s)
		if err != nil {
			t.Fatal(err)
		}
		pin := Pin{Backend: 7, Endpoint: 1 << 60, Since: now.Unix()}
		var answer message.Fields
		s.Write(&answer, pin, now)
		req := &message.Request{}
		if tt.s.Header {
			req.Fields.Add("X-Session", answer.Get("x-session"))
		} else {
			cookie := answer.Get("set-cookie")
			if !strings.HasSuffix(cookie, tt.want) {
				t.Errorf("%s: %s, want %s", tt.name, cookie, tt.want)
			}
			value, _, _ := strings.Cut(cookie, ";")
			req.Fields.Add("Cookie", "other=1; "+value)
		}
		if got, ok := s.Read(req, now.Add(59*time.Minute)); !ok || got != pin {
			t.Errorf("%s: %v, %v, want %v", tt.name, got, ok, pin)
		}
		for when, at := range map[string]time.Time{"too late": now.Add(time.Hour), "before it was made": now.Add(-time.Minute)} {
			if _, ok := s.Read(req, at); ok {
				t.Errorf("%s: it counts %s", tt.name, when)
			}
		}
		if _, ok := s.Read(&message.Request{Fields: message.Fields{{Name: "cookie", Value: "sid=x"}}}, now); ok {
			t.Errorf("%s: anything counts", tt.name)
		}
	}
	if _, err := CompileSession(&waypointapi.Session{Name: "a b"}); err == nil {
		t.Error("a bad name is taken")
	}
}
