package telemetry

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func newLog(t *testing.T, cfg LogConfig) (*Logger, *output) {
	t.Helper()
	out := new(output)
	l, err := NewLogger(cfg, out)
	if err != nil {
		t.Fatal(err)
	}
	return l, out
}

func TestPlainFields(t *testing.T) {
	tests := []struct {
		name  string
		field zap.Field
		want  string
	}{
		{"text is quoted", zap.String("k", "v"), `k="v"`},
		{"quotes and backslashes are escaped", zap.String("k", `a"b\c`), `k="a\"b\\c"`},
		{"a line stays one line", zap.String("k", "a\nb"), `k="a\nb"`},
		{"control characters cannot reach a terminal", zap.String("k", "\x1b[2J"), `k="\x1b[2J"`},
		{"a tab cannot look like a column", zap.String("k", "a\tb"), `k="a\tb"`},
		{"text that is not UTF-8 is escaped", zap.String("k", "\xff"), `k="\xff"`},
		{"other scripts stay readable", zap.String("k", "né"), `k="né"`},
		{"number", zap.Uint64("k", 7), `k=7`},
		{"negative number", zap.Int("k", -7), `k=-7`},
		{"truth", zap.Bool("k", true), `k=true`},
		{"duration", zap.Duration("k", 1500*time.Millisecond), `k="1.5s"`},
		{"error", zap.Error(errors.New("it broke")), `error="it broke"`},
		{"list", zap.Strings("k", []string{"a", "b"}), `k=["a","b"]`},
		{"object", zap.Dict("k", zap.Int("n", 1)), `k={"n":1}`},
		{"namespace prefixes what follows", zap.Namespace("ns"), ``},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, out := newLog(t, LogConfig{})
			l.Zap().Named("x").Info("hello", tt.field)
			want := "info\tx\thello\t" + tt.want
			if tt.want == "" {
				want = "info\tx\thello"
			}
			if got := afterTime(t, out.lines()[0]); got != want {
				t.Errorf("line %q, want %q", got, want)
			}
		})
	}
}

func TestFieldsOfWithStandFirst(t *testing.T) {
	l, out := newLog(t, LogConfig{})
	with := l.Zap().Named("x").With(zap.String("pod", "p"))
	with.Info("one", zap.Int("n", 1))
	with.Info("two")
	lines := out.lines()
	for i, want := range []string{"info\tx\tone\tpod=\"p\" n=1", "info\tx\ttwo\tpod=\"p\""} {
		if got := afterTime(t, lines[i]); got != want {
			t.Errorf("line %q, want %q", got, want)
		}
	}
}

func TestScopesChangeWhileTheProcessRuns(t *testing.T) {
	l, out := newLog(t, LogConfig{Spec: "warn,xds=debug"})
	xds, client, other := l.Zap().Named("xds"), l.Zap().Named("xds").Named("client"), l.Zap().Named("xdsother")
	xds.Debug("heard")
	client.Debug("heard")
	other.Info("not heard")
	if got := len(out.lines()); got != 2 {
		t.Errorf("%d lines, want those of xds and xds.client", got)
	}
	if err := l.Levels().Set("info,xds.client:error"); err != nil {
		t.Fatal(err)
	}
	xds.Debug("heard")
	client.Warn("not heard")
	other.Info("heard")
	if got := len(out.lines()); got != 2 {
		t.Errorf("after Set %d lines, want those of xds and xdsother", got)
	}
	l.Levels().Reset()
	other.Info("not heard")
	if got := l.Levels().String(); got != "warn,xds=debug" || out.lines() != nil {
		t.Errorf("after Reset levels are %q, want those of the start", got)
	}
}

func TestLevelsSet(t *testing.T) {
	tests := []struct {
		name string
		spec string
		want string // what is in force after; empty means: refused, unchanged
	}{
		{"a level is for all", "debug", "debug,hickory_server::server=off"},
		{"scope with a colon", "access:error", "info,access=error,hickory_server::server=off"},
		{"scope with an equals sign", "access=error", "info,access=error,hickory_server::server=off"},
		{"a path with two colons", "ztunnel::proxy:trace", "info,hickory_server::server=off,ztunnel::proxy=trace"},
		{"blanks and empty parts do not matter", " debug ,, access: warn", "debug,access=warn,hickory_server::server=off"},
		{"case does not matter for levels", "WARN", "warn,hickory_server::server=off"},
		{"the last one counts", "debug,error", "error,hickory_server::server=off"},
		{"reset and more", "reset,debug", "debug,hickory_server::server=off"},
		{"unknown level", "loud", ""},
		{"unknown level of a scope", "access:loud", ""},
		{"no scope", ":debug", ""},
		{"a scope is a name", "a b:debug", ""},
		{"one bad part refuses all", "debug,access:loud", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := NewLevels("info,hickory_server::server=off")
			if err != nil {
				t.Fatal(err)
			}
			before := l.String()
			err = l.Set(tt.spec)
			want := tt.want
			if want == "" {
				want = before
				if err == nil {
					t.Errorf("Set(%q) = nil, want an error", tt.spec)
				}
			} else if err != nil {
				t.Errorf("Set(%q) = %v", tt.spec, err)
			}
			if got := l.String(); got != want {
				t.Errorf("levels are %q, want %q", got, want)
			}
		})
	}
}

func TestLevelsAreBounded(t *testing.T) {
	l, err := NewLevels("")
	if err != nil {
		t.Fatal(err)
	}
	var spec []string
	for i := range maxDirectives + 1 {
		spec = append(spec, "s"+strings.Repeat("x", i)+":debug")
	}
	if err := l.Set(strings.Join(spec, ",")); err == nil {
		t.Errorf("Set takes %d scopes, want at most %d", len(spec), maxDirectives)
	}
}

func FuzzLevels(f *testing.F) {
	f.Add("info")
	f.Add("warn,xds=debug,a::b:off")
	f.Add("reset,=:,")
	f.Fuzz(func(t *testing.T, spec string) {
		l, err := NewLevels(spec)
		if err != nil {
			return
		}
		again, err := NewLevels(l.String())
		if err != nil || again.String() != l.String() {
			t.Errorf("levels %q print as %q, which reads as %v, %v", spec, l, again, err)
		}
		for _, scope := range []string{"", "a", "a.b", "xds"} {
			for _, level := range []zapcore.Level{traceLevel, zapcore.DebugLevel, zapcore.InfoLevel, zapcore.ErrorLevel} {
				if l.EnabledFor(scope, level) && !l.Enabled(level) {
					t.Errorf("levels %q: scope %q logs %v, but the first check drops it", spec, scope, level)
				}
			}
		}
	})
}

func FuzzPlainLine(f *testing.F) {
	f.Add("message", "key text")
	f.Add("two\nlines", "a\"b\\\x00\xff\u2028")
	f.Fuzz(func(t *testing.T, message, text string) {
		l, out := newLog(t, LogConfig{})
		l.Zap().Named("x").Info(message, zap.String("k", text))
		line := out.buf.String()
		if strings.Count(line, "\n") != 1 || strings.Count(line, "\t") != 4 || strings.ContainsRune(line, 0x1b) {
			t.Errorf("message %q and text %q make %q: want one line of five columns", message, text, line)
		}
	})
}

func TestJSONLinesAreJSON(t *testing.T) {
	l, out := newLog(t, LogConfig{JSON: true, Spec: "trace"})
	l.Zap().Named("x").Log(traceLevel, "a \"b\"\n", zap.String("k", "\xff\n"), zap.Strings("l", []string{"a"}))
	var got map[string]any
	if err := json.Unmarshal([]byte(out.lines()[0]), &got); err != nil {
		t.Fatal(err)
	}
	if got["level"] != "trace" || got["scope"] != "x" || got["message"] != "a \"b\"\n" {
		t.Errorf("fields are %v", got)
	}
}

func TestParseLogFormat(t *testing.T) {
	for format, want := range map[string]bool{"": false, "plain": false, "json": true} {
		if got, err := ParseLogFormat(format); got != want || err != nil {
			t.Errorf("ParseLogFormat(%q) = %v, %v, want %v", format, got, err, want)
		}
	}
	if _, err := ParseLogFormat("xml"); err == nil {
		t.Error("ParseLogFormat(xml) is accepted")
	}
}
