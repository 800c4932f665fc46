package files_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ambit-mesh/ambit/istiod-lite/files"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// directory is a directory of manifests, its source and what it told.
type directory struct {
	t      *testing.T
	path   string
	source *files.Source
	logs   *observer.ObservedLogs
	told   []string
}

func newDirectory(t *testing.T) *directory {
	core, logs := observer.New(zap.InfoLevel)
	d := &directory{t: t, path: t.TempDir(), logs: logs}
	d.source = files.New(d.path, zap.New(core))
	return d
}

// write replaces a file; an empty text removes it.
func (d *directory) write(name, text string) {
	d.t.Helper()
	path := filepath.Join(d.path, name)
	var err error
	if text == "" {
		err = os.Remove(path)
	} else if err = os.WriteFile(path+".new", []byte(text), 0o600); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// hear notes events as "+Kind ns/name" and "-Kind ns/name".
func (d *directory) hear(events []model.Event) {
	for _, e := range events {
		sign := "+"
		if e.Object == nil {
			sign = "-"
		}
		d.told = append(d.told, sign+e.Key.String())
	}
}

// want refreshes and compares what was told since the last time.
func (d *directory) want(why string, want ...string) {
	d.t.Helper()
	if err := d.source.Refresh(d.t.Context(), d.hear); err != nil {
		d.t.Fatal(err)
	}
	if got := strings.Join(d.told, ", "); got != strings.Join(want, ", ") {
		d.t.Errorf("%s: told %q, want %q", why, got, strings.Join(want, ", "))
	}
	d.told = nil
}

// object writes an object without content.
func object(apiVersion, kind, metadata string) string {
	return fmt.Sprintf("---\napiVersion: %s\nkind: %s\nmetadata: {%s}\n", apiVersion, kind, metadata)
}

func TestSourceTellsOfDifferencesOnly(t *testing.T) {
	d := newDirectory(t)
	ns, a, b := object("v1", "Namespace", "name: shop"), object("v1", "Pod", "name: a, namespace: shop"), object("v1", "Pod", "name: b")
	d.write("1.yaml", ns+a)
	d.write("2.yaml", b)
	d.want("at first everything", "+Namespace shop", "+Pod default/b", "+Pod shop/a")
	d.want("nothing differs")
	d.write("1.yaml", "# a comment\n"+ns+a)
	d.want("no object differs")
	d.write("1.yaml", ns+strings.Replace(a, "name: a", "name: a, labels: {x: y1}", 1))
	d.want("one object differs", "+Pod shop/a")
	d.write("2.yaml", "")
	d.write("3.yaml", b)
	d.want("moved to another file: the same object")
	d.write("3.yaml", "")
	d.want("gone", "-Pod default/b")
}

func TestReportSaysWhatIsWrongWhere(t *testing.T) {
	d := newDirectory(t)
	d.write("a.yaml", object("v1", "Pod", "name: a"))
	d.write("b.yaml", object("v1", "Pod", "name: b")+"spec: {nodename: x}\n"+object("example.com/v1", "Thing", "name: t"))
	d.write("c.yaml", "\n"+object("example.com/v1", "Thing", "name: t")+object("example.com/v1", "Pod", "name: t"))
	d.want("what is good is told", "+Pod default/a")
	r := d.source.Report()
	if len(r.Refused) != 1 || r.Refused[0] != (files.Refused{File: filepath.Join(d.path, "b.yaml"), Line: 5, Object: "Pod b", Reason: `unknown field "spec.nodename"`}) {
		t.Errorf("refused are %+v", r.Refused)
	}
	if len(r.Ignored) != 2 || r.Ignored[0] != (files.Ignored{File: filepath.Join(d.path, "c.yaml"), Line: 3, APIVersion: "example.com/v1", Kind: "Thing", Name: "t"}) {
		t.Errorf("ignored are %+v", r.Ignored)
	}
	if r.Files != 2 || r.Objects != 1 {
		t.Errorf("report is %+v", r)
	}
	if place := d.source.Place(model.Key{Kind: model.KindPod, Namespace: "default", Name: "a"}); place != filepath.Join(d.path, "a.yaml:2") {
		t.Errorf("Pod a stands at %q", place)
	}
	refusals := d.logs.FilterMessageSnippet("manifest refused").Len()
	d.write("c.yaml", "")
	d.want("nothing told")
	if again := d.logs.FilterMessageSnippet("manifest refused").Len(); refusals != 1 || again != 1 {
		t.Errorf("the refusal was logged %d times, then %d, want once", refusals, again)
	}
	d.write("b.yaml", object("v1", "Pod", "name: b"))
	d.want("mended", "+Pod default/b")
	if d.logs.FilterMessageSnippet("no longer refused").Len() != 1 || len(d.source.Report().Refused) != 0 {
		t.Errorf("the end of the refusal was not logged")
	}
}

// An object that could not come into force, because another file holds it, does
// so when that file lets go, though its own file did not change.
func TestConflictThatEnds(t *testing.T) {
	d := newDirectory(t)
	d.write("a.yaml", object("v1", "Pod", "name: x"))
	d.want("at first", "+Pod default/x")
	d.write("b.yaml", object("v1", "Pod", "name: x, labels: {from: b}"))
	d.want("a holds it")
	d.write("a.yaml", "")
	d.want("b has it", "+Pod default/x")
}

func TestRunTellsAtOnceAndOfChanges(t *testing.T) {
	d := newDirectory(t)
	told := make(chan string, 16)
	done := make(chan error, 1)
	go func() {
		done <- d.source.Run(t.Context(), func(events []model.Event) {
			text := ""
			for _, e := range events {
				text += e.Key.String() + ";"
			}
			told <- text
		})
	}()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	if got := <-told; got != "" {
		t.Errorf("an empty directory: told %q", got)
	}
	d.write("a.yaml", object("v1", "Pod", "name: x"))
	if got := <-told; got != "Pod default/x;" {
		t.Errorf("told %q", got)
	}
}

// Every kind in every version that is served.
func TestEveryKindIsRead(t *testing.T) {
	text := object("v1", "Namespace", "name: o") + object("v1", "Node", "name: o") + object("v1", "ServiceAccount", "name: o") +
		object("v1", "Pod", "name: o") + object("v1", "Service", "name: o") +
		object("discovery.k8s.io/v1", "EndpointSlice", "name: o") + "addressType: IPv4\n" +
		object("security.istio.io/v1", "AuthorizationPolicy", "name: o") + object("security.istio.io/v1beta1", "AuthorizationPolicy", "name: o2") +
		object("security.istio.io/v1", "PeerAuthentication", "name: o") + object("security.istio.io/v1beta1", "PeerAuthentication", "name: o2") +
		object("gateway.networking.k8s.io/v1", "Gateway", "name: o") + object("gateway.networking.k8s.io/v1beta1", "Gateway", "name: o2")
	for i, version := range []string{"v1", "v1beta1", "v1alpha3"} {
		text += object("networking.istio.io/"+version, "WorkloadEntry", fmt.Sprint("name: o", i)) + "spec: {address: 10.0.0.1}\n"
		text += object("networking.istio.io/"+version, "ServiceEntry", fmt.Sprint("name: o", i)) + "spec: {hosts: [a.example.com]}\n"
	}
	events, err := files.Decode("all.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Count(text, "apiVersion"); len(events) != want {
		t.Errorf("%d of %d objects were read", len(events), want)
	}
}

// A file that was good before a restart and is bad after it: what it said is
// lost, and to leave its policies out would open what they close.
func TestNothingIsToldWhilePoliciesMayBeMissing(t *testing.T) {
	policy := object("security.istio.io/v1", "AuthorizationPolicy", "name: p, namespace: shop")
	pod := object("v1", "Pod", "name: web, namespace: shop")
	for _, tt := range []struct {
		name, text string
		waits      bool
	}{
		{"a policy with a mistake", policy + "spec: {rules: [{from: [{source: {}}]}]}\n", true},
		{"text that does not parse, with a policy in it", policy + "spec: [\n", true},
		{"a service that asks for a waypoint", object("v1", "Service", "name: UPPER, namespace: shop, labels: {istio.io/use-waypoint: wp}"), true},
		{"a pod with a mistake", object("v1", "Pod", "name: UPPER, namespace: shop"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDirectory(t)
			d.write("good.yaml", pod)
			d.write("bad.yaml", tt.text)
			calls := 0
			hear := func(events []model.Event) { calls++; d.hear(events) }
			refresh := func() {
				t.Helper()
				if err := d.source.Refresh(t.Context(), hear); err != nil {
					t.Fatal(err)
				}
			}
			refresh()
			if !tt.waits {
				if len(d.told) != 1 || len(d.source.Report().Waiting) != 0 {
					t.Errorf("told %q, waits for %q", d.told, d.source.Report().Waiting)
				}
				return
			}
			if calls != 0 || len(d.source.Report().Waiting) != 1 || !strings.HasSuffix(d.source.Report().Waiting[0], "/bad.yaml") {
				t.Errorf("told %q, waits for %q", d.told, d.source.Report().Waiting)
			}
			if d.logs.FilterMessageSnippet("nothing is served yet").Len() != 1 {
				t.Error("the log does not say why nothing is served")
			}
			d.write("bad.yaml", "")
			refresh()
			if strings.Join(d.told, " ") != "+Pod shop/web" || len(d.source.Report().Waiting) != 0 {
				t.Errorf("told %q, waits for %q", d.told, d.source.Report().Waiting)
			}
			d.write("bad.yaml", tt.text) // now it is a new file, of which nothing was ever in force
			d.write("more.yaml", object("v1", "Pod", "name: more, namespace: shop"))
			refresh()
			if strings.Join(d.told, " ") != "+Pod shop/web +Pod shop/more" {
				t.Errorf("told %q", d.told)
			}
		})
	}
}
