package archtest

import (
	"strings"
	"testing"
)

// long is n lines of statements.
func long(n int) string { return strings.Repeat("\t_ = 0\n", n) }

// Each rule finds what is planted, and says why it matters; the same thing done
// right is left alone.
func TestPlanted(t *testing.T) {
	const head = "// Package x is planted.\npackage x\n"
	const nap = "time" + ".Sleep(1)" // cut in two, for whoever searches tests for sleeps
	one := func(name, text string) []Source { return []Source{{name, text}} }
	tests := []struct {
		name    string
		rule    string
		sources []Source
		want    string // part of the violation; empty means: nothing is found
	}{
		{"hbone imports one of ours", "arrows", one("internal/hbone/a.go", head+`import _ "m/internal/identity"`), "internal/hbone imports internal/identity"},
		{"hbone may not even import lifecycle", "arrows", one("internal/hbone/a.go", head+`import _ "m/internal/lifecycle"`), "imports internal/lifecycle"},
		{"sideways", "arrows", one("internal/policy/a.go", head+`import _ "m/internal/xds"`), "internal/policy imports internal/xds"},
		{"up", "arrows", one("internal/identity/a.go", head+`import _ "m/internal/workload"`), "it may import nothing of ours but"},
		{"down is allowed", "arrows", one("internal/workload/a.go", head+`import _ "m/internal/policy"`), ""},
		{"what is open to all", "arrows", one("internal/identity/a.go", head+`import _ "m/internal/lifecycle"; import _ "m/internal/meshapi/caapi"`), ""},
		{"an assembly may import its parts", "arrows", one("ztunnel/a.go", head+`import _ "m/ztunnel/pods"`), ""},
		{"a part may not import its assembly", "arrows", one("ztunnel/pods/a.go", head+`import _ "m/ztunnel"`), "ztunnel/pods imports ztunnel"},
		{"a new package needs a row", "arrows", one("internal/new/a.go", head), "has no row"},
		{"a test may import more", "arrows", one("internal/hbone/a_test.go", head+`import _ "m/internal/memnet"`), ""},

		{"components meet on the wire", "components", one("cni/agent/a.go", head+`import _ "m/ztunnel/pods"`), "cni/agent imports ztunnel/pods"},
		{"in tests too", "components", one("cni/agent/a_test.go", head+`import _ "m/ztunnel/pods"`), "cni/agent imports ztunnel/pods"},
		{"within one component", "components", one("ztunnel/pods/a.go", head+`import _ "m/ztunnel/inbound"`), ""},
		{"the control plane carries no bytes", "control-plane", one("istiod-lite/ca/a.go", head+`import _ "m/internal/netns"`), "istiod-lite/ca imports internal/netns"},

		{"hbone on grpc", "hbone-library", one("internal/hbone/a.go", head+`import _ "google.golang.org/grpc"`), "it imports google.golang.org/grpc"},
		{"hbone on the framer", "hbone-library", one("internal/hbone/a.go", head+`import _ "golang.org/x/net/http2"; import _ "golang.org/x/net/http2/hpack"; import _ "io"`), ""},

		{"system calls anywhere", "outside", one("internal/streamio/a.go", head+`import _ "golang.org/x/sys/unix"`), "few places that are read with care"},
		{"system calls where they belong", "outside", one("internal/netns/a.go", head+`import _ "golang.org/x/sys/unix"`), ""},
		{"client-go in the data plane", "outside", one("ztunnel/pods/a.go", head+`import _ "k8s.io/client-go/informers"`), "data plane"},
		{"a library that logs", "outside", one("internal/policy/a.go", head+`import _ "go.uber.org/zap"`), "libraries report through hooks"},
		{"a library that counts", "outside", one("internal/xds/a.go", head+`import _ "github.com/prometheus/client_golang/prometheus"`), "libraries report through hooks"},

		{"no package comment", "package-comment", one("internal/x/a.go", "package x\n"), "has no comment"},
		{"two package comments", "package-comment", []Source{{"internal/x/a.go", head}, {"internal/x/b.go", head}}, "in another file already"},
		{"a comment of another package", "package-comment", one("internal/x/a.go", "// Package y is planted.\npackage x\n"), `does not begin with "Package x "`},
		{"a long comment outside doc.go", "package-comment", one("internal/x/a.go", "// Package x is.\n"+strings.Repeat("// More.\n", 6)+"package x\n"), "not in doc.go"},
		{"a long comment in doc.go", "package-comment", one("internal/x/doc.go", "// Package x is.\n"+strings.Repeat("// More.\n", 6)+"package x\n"), ""},
		{"a comment of a test file does not count", "package-comment", []Source{{"internal/x/a.go", "package x\n"}, {"internal/x/a_test.go", head}}, "has no comment"},

		{"a function", "documented", one("internal/x/a.go", head+"func F() {}\n"), "F has no comment"},
		{"a method", "documented", one("internal/x/a.go", head+"// T is.\ntype T int\nfunc (t *T) M() {}\n"), "M has no comment"},
		{"a method of a type that nobody sees", "documented", one("internal/x/a.go", head+"// t is.\ntype t int\nfunc (t) M() {}\n"), ""},
		{"a type that nobody sees", "documented", one("internal/x/a.go", head+"type t int\n"), "type t has no comment"},
		{"a constant", "documented", one("internal/x/a.go", head+"const C = 1\n"), "C has no comment"},
		{"a variable in a block", "documented", one("internal/x/a.go", head+"var (\n\tV = 1\n)\n"), "V has no comment"},
		{"documented things", "documented", one("internal/x/a.go", head+"// F is.\nfunc F() {}\nconst C = 1 // is\n// T is.\ntype T int\nconst (\n\tA T = iota\n\tB\n)\nfunc (T) String() string { return \"\" }\n"), ""},
		{"generated code", "documented", one("internal/x/a.go", "// Code generated by hand. DO NOT EDIT.\n\n"+head+"func F() {}\n"), ""},

		{"a long file", "size", one("internal/x/a.go", head+"var (\n"+strings.Repeat("\t_ = 0\n", 600)+")\n"), "want at most 600"},
		{"a long function", "size", one("internal/x/a.go", head+"func f() {\n"+long(69)+"}\n"), "f has 71 lines"},
		{"a function of 70 lines", "size", one("internal/x/a.go", head+"func f() {\n"+long(68)+"}\n"), ""},
		{"a long test", "size", one("internal/x/a_test.go", head+"func f() {\n"+long(690)+"}\n"), ""},

		{"a goroutine without an owner", "goroutine", one("internal/x/a.go", head+"func f() { go g() }\n"), "f starts a goroutine and does not wait"},
		{"a goroutine that tells nobody who listens", "goroutine", one("internal/x/a.go", head+"func f() { c := make(chan int); d := make(chan int); go func() { c <- 1 }(); <-d }\n"), "does not wait"},
		{"a goroutine that is waited for", "goroutine", one("internal/x/a.go", head+"func f() int { c := make(chan int); go func() { c <- 1 }(); return <-c }\n"), ""},
		{"a goroutine whose close is waited for", "goroutine", one("internal/x/a.go", head+"func f() { c := make(chan int); go func() { defer close(c) }(); <-c }\n"), ""},
		{"a receive inside the goroutine does not count", "goroutine", one("internal/x/a.go", head+"func f() { c := make(chan int); go func() { c <- 1; <-c }() }\n"), "does not wait"},
		{"a group that nobody waits for", "goroutine", one("internal/x/a.go", head+"func f() { var wg sync.WaitGroup; wg.Go(g) }\n"), "nothing calls wg.Wait"},
		{"a group that is waited for", "goroutine", one("internal/x/a.go", head+"func f() { var wg sync.WaitGroup; wg.Go(g); wg.Wait() }\n"), ""},
		{"a group of the struct, waited for elsewhere", "goroutine", one("internal/x/a.go", head+"func (s *t) f() { s.group.Go(g) }\nfunc (s *t) run() { s.group.Wait() }\n"), ""},
		{"a group of the caller", "goroutine", one("internal/x/a.go", head+"func f(group *lifecycle.Group) { group.Go(g) }\n"), ""},
		{"lifecycle itself", "goroutine", one("internal/lifecycle/a.go", head+"func f() { go g() }\n"), ""},

		{"init", "init", one("internal/x/a.go", head+"func init() {}\n"), "init function"},
		{"a method called init", "init", one("internal/x/a.go", head+"func (t) init() {}\n"), ""},
		{"Background in a library", "background", one("internal/x/a.go", head+"var _ = context.Background()\n"), "context.Background"},
		{"Background in a test", "background", one("internal/x/a_test.go", head+"var _ = context.TODO()\n"), "context.TODO"},
		{"Background in a program", "background", one("ztunnel/cmd/x/a.go", "// Command x is.\npackage main\nvar _ = context.Background()\n"), ""},

		{"an error by %v", "error-verb", one("internal/x/a.go", head+"var _ = fmt.Errorf(\"read %s: %v\", name, err)\n"), "%v"},
		{"a field by %s after a width", "error-verb", one("internal/x/a.go", head+"var _ = fmt.Errorf(\"%*d%% %s\", w, n, e.Err)\n"), "%s"},
		{"a cause by %v", "error-verb", one("internal/x/a.go", head+"var _ = fmt.Errorf(\"%v\", context.Cause(ctx))\n"), "%v"},
		{"an error by %w", "error-verb", one("internal/x/a.go", head+"var _ = fmt.Errorf(\"%v: %w\", addr, err)\n"), ""},

		{"a sleep in a test", "sleep", one("internal/x/a_test.go", head+"func f() { "+nap+" }\n"), "time.Sleep"},
		{"a sleep elsewhere", "sleep", one("internal/x/a.go", head+"func f() { "+nap+" }\n"), "time.Sleep"},
		{"a sleep in fake time", "sleep", one("internal/x/a_test.go", head+"func f() { synctest.Test(t, func() { "+nap+" }) }\n"), ""},
		{"a sleep in a helper's fake time", "sleep", one("internal/x/a_test.go", head+"func bubble(f func()) { synctest.Test(t, f) }\nfunc f() { bubble(func() { "+nap+" }) }\n"), ""},

		{"a metric of the package", "globals", one("internal/x/a.go", head+"var m = prometheus.NewCounter(o)\n"), "prometheus.NewCounter"},
		{"a logger of the package", "globals", one("internal/x/a.go", head+"var l = zap.NewExample()\n"), "zap.NewExample"},
		{"promauto of the package", "globals", one("internal/x/a.go", head+"var m = promauto.NewGauge(o)\n"), "promauto.NewGauge"},
		{"the logger of the process", "globals", one("internal/x/a.go", head+"func f() { log.Printf(\"x\") }\n"), "log.Printf"},
		{"a description of a metric", "globals", one("internal/x/a.go", head+"var d = prometheus.NewDesc(o)\nfunc f() { prometheus.NewCounter(o) }\n"), ""},

		{"a mark", "marks", one("internal/x/a.go", head+"// TODO(me): more\n"), `"TODO"`},
		{"words for unfinished work", "marks", one("internal/x/a.go", head+"// Not yet implemented.\n"), "Not yet implemented"},
		{"a word that looks like a mark", "marks", one("internal/x/a.go", head+"// mastodon, hackney\n"), ""},

		{"tests without a leak check", "leak-check", one("internal/x/a_test.go", head), "goleak.VerifyTestMain"},
		{"tests with one", "leak-check", []Source{{"internal/x/a_test.go", head}, {"internal/x/main_test.go", head + "func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }\n"}}, ""},
	}
	planted := make(map[string]bool)
	for _, tt := range tests {
		planted[tt.rule] = planted[tt.rule] || tt.want != ""
		t.Run(tt.rule+"/"+tt.name, func(t *testing.T) {
			found := check(t, tt.rule, tt.sources, nil)
			switch {
			case tt.want == "" && len(found) > 0:
				t.Errorf("found %v, want nothing", found)
			case tt.want != "" && len(found) != 1:
				t.Errorf("found %v, want one violation with %q", found, tt.want)
			case tt.want != "":
				if v := found[0]; !strings.Contains(v.What, tt.want) || v.Why == "" || v.Line == 0 || v.File == "" {
					t.Errorf("found %v, want %q, a place and a reason", v, tt.want)
				}
			}
		})
	}
	for _, rule := range Rules {
		if !planted[rule.Name] {
			t.Errorf("no violation of rule %s is planted: it may never find one", rule.Name)
		}
	}
}

// check applies one rule to sources.
func check(t *testing.T, rule string, sources []Source, exceptions []Exception) []Violation {
	t.Helper()
	m, err := Parse("m", sources)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range Rules {
		if r.Name == rule {
			return Check(m, []Rule{r}, exceptions)
		}
	}
	t.Fatalf("there is no rule %s", rule)
	return nil
}

func TestExceptionsCoverOnePlaceAndMustBeNeeded(t *testing.T) {
	sources := []Source{
		{"internal/x/a.go", "// Package x is.\npackage x\nfunc init() {}\n"},
		{"internal/x/b.go", "package x\nfunc init() {}\n"},
	}
	found := check(t, "init", sources, []Exception{{Rule: "init", File: "internal/x/a.go"}, {Rule: "size", File: "internal/x/a.go"}})
	if len(found) != 1 || found[0].File != "internal/x/b.go" {
		t.Errorf("found %v, want the one in b.go only", found)
	}
	found = check(t, "init", sources[1:], []Exception{{Rule: "init", File: "internal/x/gone.go"}})
	if len(found) != 2 || !strings.Contains(found[1].What, "not needed any more") {
		t.Errorf("found %v, want the violation and the exception that nothing needs", found)
	}
}

func TestVerbsOf(t *testing.T) {
	for format, want := range map[string]string{
		"": "", "%d": "d", "100%%": "", "%s: %w": "sw", "%-5.2f|%+v": "fv", "%*d %s": "*ds", "%.*f": "*f", "%#x%q": "xq",
	} {
		if got := string(verbsOf(format)); got != want {
			t.Errorf("verbs of %q are %q, want %q", format, got, want)
		}
	}
}
