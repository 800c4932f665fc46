package proc

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseStartTime(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 4242 1000 10"
	tests := []struct {
		name, stat string
		want       uint64
		fails      string
	}{
		{"plain", "17 (ztunnel)" + rest, 4242, ""},
		{"a name with blanks and parentheses", "17 (a) 1 2 (b) c)" + rest, 4242, ""},
		{"cut short", "17 (ztunnel) S 1 2", 0, "fields after"},
		{"no name", "17 ztunnel S", 0, "no program name"},
		{"not a number", "17 (z)" + strings.Replace(rest, "4242", "x", 1), 0, "invalid syntax"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStartTime([]byte(tt.stat))
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("parseStartTime = %d, %v, want an error with %q", got, err, tt.fails)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("parseStartTime = %d, %v, want %d", got, err, tt.want)
			}
		})
	}
}
