package install

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// ownNames are the names that a file of ours may have. The first that sorts
// before the primary is taken.
var ownNames = []string{"02-ambit-cni.conflist", "00-ambit-cni.conflist", "00-00-ambit-cni.conflist"}

// errNoPrimary says that the node has no network.
var errNoPrimary = errors.New("no network is configured on the node yet")

// primary returns the file that a runtime would take without us.
func (i *Installer) primary() (file, error) {
	files, refused, err := readConfs(i.cfg.ConfDir)
	if err != nil {
		return file{}, err
	}
	for _, f := range files {
		if slices.Contains(ownNames, f.name) {
			continue
		}
		if f.conf.foreign() {
			return file{}, fmt.Errorf("%s calls the plugin %s of another ambient installation: remove that first, two would capture the same pods", f.name, foreignType)
		}
		return f, nil
	}
	return file{}, errors.Join(append([]error{fmt.Errorf("%s: %w", i.cfg.ConfDir, errNoPrimary)}, refused...)...)
}

// lookOwn has a file of ours follow the primary.
func (i *Installer) lookOwn() (changed bool, err error) {
	p, err := i.primary()
	if err != nil {
		return false, err
	}
	at := slices.IndexFunc(ownNames, func(name string) bool { return name < p.name })
	if at < 0 {
		return false, fmt.Errorf("%s sorts before every name of ours: use --conf-mode=%s", p.name, Chained)
	}
	want, err := p.conf.with(i.entry).render()
	if err != nil {
		return false, fmt.Errorf("%s: %w", p.name, err)
	}
	path := filepath.Join(i.cfg.ConfDir, ownNames[at])
	if changed, err = ensure(path, want, p.meta); err != nil {
		return changed, i.explain(ownNames[at], err)
	}
	for _, name := range ownNames {
		if name != ownNames[at] {
			err = errors.Join(err, remove(filepath.Join(i.cfg.ConfDir, name)))
		}
	}
	// What an installation in the other mode has left.
	return changed, errors.Join(err, i.unchain())
}

// ensure has raw at path, with the mode and owner of m.
func ensure(path string, raw []byte, m meta) (changed bool, err error) {
	m.Link = ""
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, raw) {
		if now, err := metaOf(path); err == nil && now == m {
			return false, nil
		}
	}
	return true, replace(path, raw, m)
}

// explain adds what another tool has done to our file.
func (i *Installer) explain(name string, err error) error {
	if _, gone := os.Stat(filepath.Join(i.cfg.ConfDir, name+".cilium_bak")); gone == nil {
		return fmt.Errorf("%w; Cilium takes it away: set its cni.exclusive to false", err)
	}
	return err
}

// removeOwn takes our files away.
func (i *Installer) removeOwn() error {
	var err error
	for _, name := range ownNames {
		err = errors.Join(err, remove(filepath.Join(i.cfg.ConfDir, name)))
	}
	return err
}
