package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come soon.
const patience = 10 * time.Second

// node is the directories of a runtime.
type node struct {
	t         *testing.T
	conf, bin string
	program   string
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, conf: t.TempDir(), bin: t.TempDir(), program: filepath.Join(t.TempDir(), "plugin")}
	if err := os.WriteFile(n.program, []byte("#!/bin/true\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return n
}

// installer makes an installer for the node.
func (n *node) installer(mode Mode) *Installer {
	n.t.Helper()
	i, err := New(Config{
		BinDir: n.bin, ConfDir: n.conf, Program: n.program, RunDir: "/run/agent", Mode: mode,
		ExcludeNamespaces: []string{"kube-system"}, PodNamespace: "mesh",
	}, Deps{Log: zaptest.NewLogger(n.t), Metrics: prometheus.NewRegistry()})
	if err != nil {
		n.t.Fatal(err)
	}
	return i
}

// run runs i until the function that it returns is called.
func (n *node) run(i *Installer) (stop func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	var g lifecycle.Group
	g.Go(ctx, "install", func(ctx context.Context) {
		if err := i.Run(ctx); err != nil {
			n.t.Errorf("Run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); g.Wait() })
	n.t.Cleanup(stop)
	return stop
}

// write puts a file into the configuration directory as careless tools do.
func (n *node) write(name, text string, mode fs.FileMode) {
	n.t.Helper()
	path := filepath.Join(n.conf, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		n.t.Fatal(err)
	}
}

// picture is everything in the directories.
func (n *node) picture() map[string]string {
	n.t.Helper()
	all := map[string]string{}
	for _, dir := range []string{n.conf, n.bin} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			m, err := metaOf(path)
			if err != nil {
				n.t.Fatal(err)
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				n.t.Fatal(err)
			}
			all[e.Name()] = fmt.Sprintf("%v %q %s", m.Mode, m.Link, raw)
		}
	}
	return all
}

// load does what a runtime does: it takes the first file, and fails if that one
// cannot be used.
func load(dir string) (*libcni.NetworkConfigList, error) {
	for {
		names, err := libcni.ConfFiles(dir, extensions)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, errors.New("there is no configuration")
		}
		slices.Sort(names)
		list, err := loadFile(names[0])
		if _, gone := os.Stat(names[0]); err != nil && errors.Is(gone, fs.ErrNotExist) {
			continue // it went away meanwhile, which the runtime hears of too
		}
		return list, err
	}
}

func loadFile(name string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(name) == listExtension {
		return libcni.ConfListFromFile(name)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var one struct{ Name, CNIVersion string }
	if err := json.Unmarshal(raw, &one); err != nil {
		return nil, err
	}
	list, err := json.Marshal(map[string]any{"name": one.Name, "cniVersion": one.CNIVersion, "plugins": []json.RawMessage{raw}})
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromBytes(list)
}

// calls are the types of plugins that a runtime would call.
func (n *node) calls() ([]string, error) {
	list, err := load(n.conf)
	if err != nil {
		return nil, err
	}
	var types []string
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
	}
	return types, nil
}

// eventually waits until cond holds.
func eventually(t *testing.T, why string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", why)
		}
	}
}

// A node's network, as tools write it.
const (
	calico = `{
  "name": "k8s-pod-network", "cniVersion": "0.3.1",
  "plugins": [ {"type": "calico", "ipam": {"type": "calico-ipam"}},
      {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}} ]
}`
	bridge    = `{"cniVersion": "0.4.0", "name": "pods", "type": "bridge", "bridge": "cni0", "mtu": 1450}`
	meshedBar = `{"name": "k", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}, {"type": "istio-cni"}]}`
)

func TestInstall(t *testing.T) {
	for _, tt := range []struct {
		name  string
		mode  Mode
		files map[string]string
		calls []string // plugin types
		from  string   // name of the file that the runtime takes
	}{
		{"own, a list", Own, map[string]string{"10-calico.conflist": calico}, []string{"calico", "portmap", PluginType}, "02-ambit-cni.conflist"},
		{"own, a single plugin", Own, map[string]string{"10-bridge.conf": bridge}, []string{"bridge", PluginType}, "02-ambit-cni.conflist"},
		{"own, several files", Own, map[string]string{"10-calico.conflist": calico, "05-bridge.conf": bridge}, []string{"bridge", PluginType}, "02-ambit-cni.conflist"},
		{"own, a primary that sorts early", Own, map[string]string{"01-calico.conflist": calico}, []string{"calico", "portmap", PluginType}, "00-ambit-cni.conflist"},
		{"own, a primary that sorts very early", Own, map[string]string{"00-a.conflist": calico}, []string{"calico", "portmap", PluginType}, "00-00-ambit-cni.conflist"},
		{"own, a broken file first", Own, map[string]string{"03-broken.conf": "{", "10-calico.conflist": calico}, []string{"calico", "portmap", PluginType}, "02-ambit-cni.conflist"},
		{"chained, a list", Chained, map[string]string{"10-calico.conflist": calico}, []string{"calico", "portmap", PluginType}, "10-calico.conflist"},
		{"chained, a single plugin", Chained, map[string]string{"10-bridge.conf": bridge}, []string{"bridge", PluginType}, "10-bridge.conflist"},
		{"chained, a single plugin beside a list of its name", Chained, map[string]string{"10-bridge.conf": bridge, "10-bridge.conflist": calico}, []string{"bridge", PluginType}, "10-bridge-ambit.conflist"},
		{"chained, several files", Chained, map[string]string{"10-calico.conflist": calico, "05-bridge.json": bridge}, []string{"bridge", PluginType}, "05-bridge.conflist"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			for name, text := range tt.files {
				n.write(name, text, 0o640)
			}
			before := n.picture()
			i := n.installer(tt.mode)
			if err := i.Ready(); err == nil {
				t.Error("ready before it was installed")
			}
			i.look()
			if err := i.Ready(); err != nil {
				t.Fatal(err)
			}
			if got, err := n.calls(); err != nil || !slices.Equal(got, tt.calls) {
				t.Errorf("the runtime calls %v, %v; want %v", got, err, tt.calls)
			}
			if m, err := metaOf(filepath.Join(n.conf, tt.from)); err != nil || m.Mode != 0o640 {
				t.Errorf("%s has mode %v, %v; want that of the primary", tt.from, m.Mode, err)
			}
			if m, err := metaOf(filepath.Join(n.bin, PluginType)); err != nil || m.Mode != 0o755 {
				t.Errorf("the program has mode %v, %v", m.Mode, err)
			}
			if i.look() {
				t.Error("a second look changed something")
			}
			if err := i.Uninstall(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, n.picture()); diff != "" {
				t.Errorf("uninstalled is not as before:\n%s", diff)
			}
			if i.look() {
				t.Error("after Uninstall something was put back")
			}
		})
	}
}

func TestCopyKeepsTheNetwork(t *testing.T) {
	n := newNode(t)
	n.write("10-calico.conflist", calico, 0o600)
	n.installer(Own).look()
	raw, err := os.ReadFile(filepath.Join(n.conf, ownNames[0]))
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := errors.Join(json.Unmarshal([]byte(calico), &want), json.Unmarshal(raw, &got)); err != nil {
		t.Fatal(err)
	}
	want["plugins"] = append(want["plugins"].([]any), map[string]any{
		"type": PluginType, "cni_agent_run_dir": "/run/agent", "exclude_namespaces": []any{"kube-system"}, "pod_namespace": "mesh",
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the copy differs in more than our entry:\n%s", diff)
	}
}

func TestWhatCannotBeInstalledIsSaid(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no network", nil, errNoPrimary.Error()},
		{"only a broken one", map[string]string{"10-a.conf": "{"}, "10-a.conf"},
		{"another ambient installation", map[string]string{"10-a.conflist": meshedBar}, foreignType},
	} {
		for _, mode := range []Mode{Own, Chained} {
			t.Run(string(mode)+", "+tt.name, func(t *testing.T) {
				n := newNode(t)
				for name, text := range tt.files {
					n.write(name, text, 0o600)
				}
				i := n.installer(mode)
				i.look()
				if err := i.Ready(); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Ready = %v, want an error that says %q", err, tt.want)
				}
			})
		}
	}
}

func TestPrimaryThatVanishesLeavesPodsWaiting(t *testing.T) {
	n := newNode(t)
	n.write("10-calico.conflist", calico, 0o600)
	i := n.installer(Own)
	i.look()
	if err := os.Remove(filepath.Join(n.conf, "10-calico.conflist")); err != nil {
		t.Fatal(err)
	}
	i.look()
	if err := i.Ready(); !errors.Is(err, errNoPrimary) {
		t.Errorf("Ready = %v, want %v", err, errNoPrimary)
	}
	if got, err := n.calls(); err != nil || !slices.Contains(got, PluginType) {
		t.Errorf("the runtime calls %v, %v; want our plugin too", got, err)
	}
}

func TestChangeOfModeLeavesNothingOfTheOther(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conf", bridge, 0o600)
	before := n.picture()
	n.installer(Chained).look()
	n.installer(Own).look()
	if _, err := os.Stat(filepath.Join(n.conf, "10-bridge.conf")); err != nil {
		t.Errorf("the primary was not put back: %v", err)
	}
	if _, err := os.Stat(filepath.Join(n.conf, restoreName)); err == nil {
		t.Errorf("%s is left", restoreName)
	}
	last := n.installer(Chained)
	last.look()
	if _, err := os.Stat(filepath.Join(n.conf, ownNames[0])); err == nil {
		t.Errorf("%s is left", ownNames[0])
	}
	if err := last.Uninstall(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, n.picture()); diff != "" {
		t.Errorf("uninstalled is not as before:\n%s", diff)
	}
}

func TestChainedPrimaryThatWasWrittenSince(t *testing.T) {
	n := newNode(t)
	n.write("10-calico.conflist", calico, 0o600)
	i := n.installer(Chained)
	i.look()
	raw, err := os.ReadFile(filepath.Join(n.conf, "10-calico.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(raw), `"snat": true`, `"snat": false`, 1)
	n.write("10-calico.conflist", changed, 0o600) // with our entry in it
	if err := i.Uninstall(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(n.conf, "10-calico.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(got), PluginType) || !strings.Contains(string(got), `"snat": false`) {
		t.Errorf("after Uninstall: %s; want what was changed, without us", got)
	}
}

func TestLinkIsPutBack(t *testing.T) {
	n := newNode(t)
	elsewhere := filepath.Join(t.TempDir(), "real")
	if err := errors.Join(os.WriteFile(elsewhere, []byte(calico), 0o644), os.Symlink(elsewhere, filepath.Join(n.conf, "10-calico.conflist"))); err != nil {
		t.Fatal(err)
	}
	before := n.picture()
	i := n.installer(Chained)
	i.look()
	if got, err := n.calls(); err != nil || !slices.Contains(got, PluginType) {
		t.Fatalf("the runtime calls %v, %v", got, err)
	}
	if err := i.Uninstall(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, n.picture()); diff != "" {
		t.Errorf("uninstalled is not as before:\n%s", diff)
	}
}

// randomConf is a configuration as some tool might write it.
func randomConf(r *rand.Rand, list bool) string {
	indent := []string{"", " ", "\t", "    "}[r.IntN(4)]
	plugin := func() map[string]any {
		p := map[string]any{"type": []string{"bridge", "ptp", "calico", "portmap"}[r.IntN(4)]}
		for k := range r.IntN(4) {
			p[fmt.Sprint("key", k)] = []any{1.5, "text<>&", true, nil, map[string]any{"deep": []any{1, "x"}}}[r.IntN(5)]
		}
		return p
	}
	top := plugin()
	if list {
		var plugins []any
		for range 1 + r.IntN(3) {
			plugins = append(plugins, plugin())
		}
		top = map[string]any{"plugins": plugins, "disableCheck": true}
	}
	top["name"] = fmt.Sprint("net", r.IntN(9))
	top["cniVersion"] = []string{"0.3.1", "0.4.0", "1.0.0"}[r.IntN(3)]
	raw, err := json.MarshalIndent(top, "", indent)
	if err != nil {
		panic(err) // made of what JSON has
	}
	return string(raw) + strings.Repeat("\n", r.IntN(3))
}

// randomFiles are those of a node, the first of them valid.
func randomFiles(r *rand.Rand) map[string]string {
	files := map[string]string{}
	for _, name := range []string{"05-a", "10-b", "20-c", "99-d"} {
		switch r.IntN(6) {
		case 0:
			files[name+".conflist"] = randomConf(r, true)
		case 1:
			files[name+".conf"] = randomConf(r, false)
		case 2:
			files[name+".json"] = randomConf(r, false)
		case 3:
			files[name+".bak"] = "something else"
		}
	}
	files["04-first.conflist"] = randomConf(r, true)
	if r.IntN(2) == 0 {
		delete(files, "04-first.conflist")
		files["04-first.conf"] = randomConf(r, false)
	}
	return files
}

func TestUninstallRestoresAnyBytes(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := newNode(t)
		for name, text := range randomFiles(r) {
			n.write(name, text, []fs.FileMode{0o600, 0o640, 0o644}[r.IntN(3)])
		}
		before := n.picture()
		i := n.installer([]Mode{Own, Chained}[r.IntN(2)])
		i.look()
		if err := i.Ready(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		types, err := n.calls()
		if err != nil || types[len(types)-1] != PluginType {
			t.Fatalf("seed %d: the runtime calls %v, %v", seed, types, err)
		}
		if err := i.Uninstall(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if diff := cmp.Diff(before, n.picture()); diff != "" {
			t.Fatalf("seed %d: uninstalled is not as before:\n%s", seed, diff)
		}
	}
}

// While other tools write the primary again and again, a runtime always finds a
// configuration that it can use, and in the end one that calls us. A file of our
// own is not even touched by them.
func TestRewritesAreRepaired(t *testing.T) {
	for _, mode := range []Mode{Own, Chained} {
		t.Run(string(mode), func(t *testing.T) {
			n := newNode(t)
			r := rand.New(rand.NewPCG(7, 7))
			n.write("10-net.conflist", randomConf(r, true), 0o600)
			before := n.picture()
			i := n.installer(mode)
			stop := n.run(i)
			eventually(t, "it is installed", func() bool { return i.Ready() == nil })

			ctx, cancel := context.WithCancel(t.Context())
			var g lifecycle.Group
			defer g.Wait()
			defer cancel()
			g.Go(ctx, "runtime", func(ctx context.Context) {
				for ctx.Err() == nil {
					types, err := n.calls()
					if err != nil {
						t.Errorf("the runtime cannot load its configuration: %v", err)
						return
					}
					if mode == Own && types[len(types)-1] != PluginType {
						t.Errorf("the runtime would have called %v", types)
						return
					}
				}
			})
			for k := range 7 {
				name, other, text := "10-net.conflist", "10-net.conf", randomConf(r, true)
				if k%4 == 3 {
					name, other, text = other, name, randomConf(r, false)
				}
				tmp := filepath.Join(n.conf, "tool.tmp")
				if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o600), os.Rename(tmp, filepath.Join(n.conf, name))); err != nil {
					t.Fatal(err)
				}
				var want *libcni.NetworkConfigList
				if mode == Own { // in the other, the file is ours by now
					var err error
					if want, err = loadFile(filepath.Join(n.conf, name)); err != nil {
						t.Fatal(err)
					}
					if err := remove(filepath.Join(n.conf, other)); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, "the runtime calls us after the network that was written", func() bool {
					have, err := load(n.conf)
					if err != nil || have.Plugins[len(have.Plugins)-1].Network.Type != PluginType {
						return false
					}
					return want == nil || have.Name == want.Name
				})
			}
			cancel()
			g.Wait()
			stop()
			if err := i.Uninstall(); err != nil {
				t.Fatal(err)
			}
			if got := n.picture(); strings.Contains(fmt.Sprint(got), PluginType) {
				t.Errorf("uninstalled, but something of us is left: %v (before: %v)", got, before)
			}
		})
	}
}

func TestTakenAwayIsPutBack(t *testing.T) {
	n := newNode(t)
	n.write("10-calico.conflist", calico, 0o600)
	i := n.installer(Own)
	n.run(i)
	eventually(t, "it is installed", func() bool { return i.Ready() == nil })
	for _, path := range []string{filepath.Join(n.conf, ownNames[0]), filepath.Join(n.bin, PluginType)} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		eventually(t, path+" is back", func() bool { _, err := os.Stat(path); return err == nil })
	}
}

func FuzzParseConf(f *testing.F) {
	for _, text := range []string{calico, bridge, meshedBar, "{}", `{"plugins":[{"type":""}]}`} {
		f.Add(text, true)
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text string, list bool) {
		name := "10-x.conf"
		if list {
			name = "10-x.conflist"
		}
		c, err := parseConf(name, []byte(text))
		if err != nil {
			return
		}
		raw, err := c.with(json.RawMessage(`{"type":"ambit-cni"}`)).render()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := parseConf("10-x.conflist", raw)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if !again.ours() || len(again.without().plugins) != len(c.without().plugins) {
			t.Errorf("%d plugins of others became %d", len(c.without().plugins), len(again.without().plugins))
		}
	})
}
