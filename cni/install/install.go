package install

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Mode is how our plugin gets into the list.
type Mode string

// The modes.
const (
	Own     Mode = "own"     // a file of ours, a copy of the primary with our entry
	Chained Mode = "chained" // our entry in the primary
)

// Config says what goes where.
type Config struct {
	BinDir  string // where runtimes look for plugins. Required.
	ConfDir string // where runtimes look for configurations. Required.
	Program string // of the plugin, to be copied. Required.
	RunDir  string // where the plugin finds the agent's socket. Required.

	// Mode is how the plugin gets into the list. Empty means [Own].
	Mode Mode

	ExcludeNamespaces []string // whose pods the plugin leaves alone
	PodNamespace      string   // of the agent, whose own pods start without it

	// Every is how often the directories are looked at without a reason. Zero
	// means 30 seconds.
	Every time.Duration
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() (Config, error) {
	for name, value := range map[string]string{"BinDir": c.BinDir, "ConfDir": c.ConfDir, "Program": c.Program, "RunDir": c.RunDir} {
		if value == "" {
			return Config{}, fmt.Errorf("%s is empty", name)
		}
	}
	c.Mode = cmp.Or(c.Mode, Own)
	if c.Mode != Own && c.Mode != Chained {
		return Config{}, fmt.Errorf("mode %q: want %s or %s", c.Mode, Own, Chained)
	}
	c.Every = cmp.Or(c.Every, 30*time.Second)
	return c, nil
}

// Deps are the collaborators of an [Installer]. All are required.
type Deps struct {
	Log     *zap.Logger
	Metrics prometheus.Registerer
}

// Installer keeps the plugin of one node in its place.
type Installer struct {
	// Set by New, then only read.
	cfg      Config
	log      *zap.Logger
	entry    json.RawMessage
	repaired prometheus.Counter

	// working is held by whoever changes the directories.
	working sync.Mutex

	// mu guards the fields below.
	mu      sync.Mutex
	state   error // why the plugin is not in its place
	removed bool  // Uninstall has been called; nothing is put back any more
}

// errNotYet is the state before the first look.
var errNotYet = errors.New("the plugin is not installed yet")

// New wires an installer. It touches nothing.
func New(cfg Config, deps Deps) (*Installer, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("install config: %w", err)
	}
	i := &Installer{cfg: cfg, log: deps.Log.Named("install"), state: errNotYet}
	i.entry, err = json.Marshal(entry{PluginType, cfg.RunDir, cfg.ExcludeNamespaces, cfg.PodNamespace})
	if err != nil {
		return nil, err
	}
	i.repaired = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "ambit_cni_install_repaired_total", Help: "Times that the plugin or its configuration were not as installed.",
	})
	return i, deps.Metrics.Register(i.repaired)
}

// Ready says why the runtime does not call our plugin; nil means that it does.
func (i *Installer) Ready() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.state
}

const (
	// calm is how long the directories must have been quiet for a fight with
	// another tool to be over.
	calm = 30 * time.Second

	// fightAfter is how many repairs without calm are a fight.
	fightAfter = 10
)

// Run installs, and repairs what others change, until ctx ends. It leaves the
// plugin installed.
func (i *Installer) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the directories of the runtime: %w", err)
	}
	defer watcher.Close()
	for _, dir := range []string{i.cfg.ConfDir, i.cfg.BinDir} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), removeLeftovers(dir), watcher.Add(dir)); err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	pause := lifecycle.Backoff{Initial: 20 * time.Millisecond, Max: 5 * time.Second}
	repairs, last := 0, time.Time{}
	for first := true; ctx.Err() == nil; first = false {
		changed := i.look()
		if changed && !first {
			i.repaired.Inc()
			if time.Since(last) > calm {
				repairs = 0
				pause.Reset()
			}
			last = time.Now()
			if repairs++; repairs == fightAfter {
				i.log.Error("another tool keeps changing the runtime's configuration; "+
					"if it takes away every file but its own (Cilium's cni.exclusive), tell it not to", zap.Error(i.Ready()))
			}
			if lifecycle.Sleep(ctx, pause.Next()) != nil {
				break
			}
		}
		i.wait(ctx, watcher)
	}
	return nil
}

// wait returns when something has happened in the directories, or some time has
// passed.
func (i *Installer) wait(ctx context.Context, w *fsnotify.Watcher) {
	timer := time.NewTimer(i.cfg.Every)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case err := <-w.Errors:
			i.log.Warn("watching the runtime's directories", zap.Error(err))
			return
		case e := <-w.Events:
			if ok, _ := filepath.Match(tmpPattern, filepath.Base(e.Name)); !ok && e.Op != fsnotify.Chmod {
				return
			}
		}
	}
}

// look puts everything in its place, and says whether something was not.
func (i *Installer) look() (changed bool) {
	i.working.Lock()
	defer i.working.Unlock()
	i.mu.Lock()
	removed := i.removed
	i.mu.Unlock()
	if removed {
		return false
	}
	// The program first: a list must not name what is not there.
	copied, err := copyProgram(i.cfg.Program, i.cfg.BinDir, PluginType)
	if err == nil {
		switch i.cfg.Mode {
		case Own:
			changed, err = i.lookOwn()
		case Chained:
			changed, err = i.lookChained()
		}
	}
	i.mu.Lock()
	before := i.state
	i.state = err
	i.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		i.log.Error("the plugin cannot be installed", zap.Error(err))
	case err == nil && (copied || changed):
		i.log.Info("plugin installed", zap.String("mode", string(i.cfg.Mode)), zap.Bool("program", copied), zap.Bool("configuration", changed))
	}
	return copied || changed
}

// Uninstall takes everything of ours away and puts back what was there before.
// From then on Run repairs nothing.
func (i *Installer) Uninstall() error {
	i.mu.Lock()
	i.removed, i.state = true, errors.New("the plugin is being uninstalled")
	i.mu.Unlock()
	i.working.Lock()
	defer i.working.Unlock()
	// The lists first: none may name a program that is not there.
	err := errors.Join(i.unchain(), i.removeOwn())
	if err != nil {
		return fmt.Errorf("uninstall the plugin: %w", err)
	}
	return errors.Join(
		remove(filepath.Join(i.cfg.BinDir, PluginType)),
		removeLeftovers(i.cfg.ConfDir), removeLeftovers(i.cfg.BinDir),
	)
}
