package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// restoreName is the file that says how the primary was. No runtime reads it.
const restoreName = "ambit-cni.restore"

// restore is how to undo what chained mode has done.
type restore struct {
	Name     string `json:"name"` // of the primary as it was
	Original []byte `json:"original"`
	Meta     meta   `json:"meta"`

	Installed string `json:"installed"` // name of the list with our entry
	Written   []byte `json:"written"`   // what we have written there
}

// readRestore reads it; nil when there is none.
func (i *Installer) readRestore() (*restore, error) {
	raw, err := os.ReadFile(filepath.Join(i.cfg.ConfDir, restoreName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &restore{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("%s: %w", restoreName, err)
	}
	for _, name := range []string{r.Name, r.Installed} {
		if name == "" || name != filepath.Base(name) {
			return nil, fmt.Errorf("%s: %q is no name of a file", restoreName, name)
		}
	}
	return r, nil
}

// lookChained has our entry at the end of the primary.
func (i *Installer) lookChained() (changed bool, err error) {
	p, err := i.primary()
	if err != nil {
		return false, err
	}
	r, err := i.readRestore()
	if err != nil {
		return false, err
	}
	switch {
	case r != nil && r.Installed == p.name && bytes.Equal(r.Written, p.raw):
		// As we have left it; but what we want may have changed since.
		base, err := parseConf(r.Name, r.Original)
		if err != nil {
			return false, err
		}
		p.conf = base
	case p.conf.ours():
		// Ours, and changed by somebody: the bytes before us are not known any more.
		p.conf = p.conf.without()
		if p.raw, err = p.conf.render(); err != nil {
			return false, fmt.Errorf("%s: %w", p.name, err)
		}
		r = &restore{Name: p.name, Original: p.raw, Meta: p.meta, Installed: p.name}
	default:
		r = &restore{Name: p.name, Original: p.raw, Meta: p.meta, Installed: i.listName(p)}
	}
	changed, err = i.chain(r, p.conf)
	// What an installation in the other mode has left.
	return changed, errors.Join(err, i.removeOwn())
}

// listName is the name of the list that replaces a primary. One that is a single
// plugin becomes a list with a name that sorts where its own did.
func (i *Installer) listName(p file) string {
	ext := filepath.Ext(p.name)
	if ext == listExtension {
		return p.name
	}
	stem := strings.TrimSuffix(p.name, ext)
	raw, err := os.ReadFile(filepath.Join(i.cfg.ConfDir, stem+listExtension))
	if err != nil {
		return stem + listExtension
	}
	if c, err := parseConf(stem+listExtension, raw); err == nil && c.ours() {
		return stem + listExtension
	}
	return stem + "-ambit" + listExtension
}

// chain writes the list, after what undoes it. At each moment a runtime finds
// the primary or the list.
func (i *Installer) chain(r *restore, base *conf) (changed bool, err error) {
	if r.Written, err = base.with(i.entry).render(); err != nil {
		return false, fmt.Errorf("%s: %w", r.Name, err)
	}
	undo, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	path := filepath.Join(i.cfg.ConfDir, restoreName)
	if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, undo) {
		if err := replace(path, undo, meta{Mode: 0o600, UID: r.Meta.UID, GID: r.Meta.GID}); err != nil {
			return false, err
		}
	}
	if changed, err = ensure(filepath.Join(i.cfg.ConfDir, r.Installed), r.Written, r.Meta); err != nil {
		return changed, err
	}
	if r.Installed == r.Name {
		return changed, nil
	}
	return changed, remove(filepath.Join(i.cfg.ConfDir, r.Name))
}

// unchain puts the primary back as it was before us.
func (i *Installer) unchain() error {
	r, err := i.readRestore()
	if r == nil || err != nil {
		return err
	}
	installed := filepath.Join(i.cfg.ConfDir, r.Installed)
	have, err := os.ReadFile(installed)
	switch {
	case errors.Is(err, fs.ErrNotExist): // somebody has taken it away
	case err != nil:
		return err
	case bytes.Equal(have, r.Written):
		if err := r.putBack(filepath.Join(i.cfg.ConfDir, r.Name)); err != nil {
			return err
		}
		if r.Installed != r.Name {
			if err := remove(installed); err != nil {
				return err
			}
		}
	default:
		if err := takeOut(installed, have); err != nil {
			return err
		}
	}
	return remove(filepath.Join(i.cfg.ConfDir, restoreName))
}

// putBack writes the primary as it was.
func (r *restore) putBack(path string) error {
	if r.Meta.Link != "" {
		return relink(path, r.Meta.Link)
	}
	return replace(path, r.Original, r.Meta)
}

// takeOut takes our entry out of a list that somebody has written since.
func takeOut(path string, have []byte) error {
	c, err := parseConf(filepath.Base(path), have)
	if err != nil || !c.ours() {
		return nil // it is none of ours any more
	}
	m, err := metaOf(path)
	if err != nil {
		return err
	}
	raw, err := c.without().render()
	if err != nil {
		return err
	}
	return replace(path, raw, m)
}
