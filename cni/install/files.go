package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// tmpPattern names what is being written. No runtime reads such files.
const tmpPattern = ".ambit-cni-*.tmp"

// file is one file of the configuration directory.
type file struct {
	name string
	raw  []byte
	meta meta
	conf *conf
}

// meta is what belongs to a file besides its bytes.
type meta struct {
	Mode fs.FileMode `json:"mode"`
	UID  int         `json:"uid"`
	GID  int         `json:"gid"`
	Link string      `json:"link,omitempty"` // it is a symbolic link to this
}

// metaOf looks at a file.
func metaOf(path string) (meta, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return meta{}, err
	}
	m := meta{Mode: st.Mode().Perm()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		m.UID, m.GID = int(sys.Uid), int(sys.Gid)
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		if m.Link, err = os.Readlink(path); err != nil {
			return meta{}, err
		}
		if st, err = os.Stat(path); err != nil {
			return meta{}, err
		}
		m.Mode = st.Mode().Perm()
	}
	return m, nil
}

// readConfs reads the directory as a runtime does, in its order. Files that no
// runtime could use are in refused.
func readConfs(dir string) (files []file, refused []error, err error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if e.IsDir() || !slices.Contains(extensions, filepath.Ext(e.Name())) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		f := file{name: e.Name()}
		f.raw, err = os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err == nil {
			f.meta, err = metaOf(path)
		}
		if err == nil {
			f.conf, err = parseConf(e.Name(), f.raw)
		}
		if err != nil {
			refused = append(refused, err)
			continue
		}
		files = append(files, f)
	}
	return files, refused, nil
}

// replace puts raw at path, whole or not at all, with m.
func replace(path string, raw []byte, m meta) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), tmpPattern)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(raw)
	for _, step := range []func() error{
		func() error { return f.Chown(m.UID, m.GID) },
		func() error { return f.Chmod(m.Mode) },
		f.Sync,
		f.Close,
		func() error { return os.Rename(f.Name(), path) },
	} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// relink puts a symbolic link at path in one step.
func relink(path, target string) error {
	tmp := filepath.Join(filepath.Dir(path), ".ambit-cni-"+filepath.Base(path)+".tmp")
	if err := errors.Join(remove(tmp), os.Symlink(target, tmp)); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// remove takes a file away. What is not there is no error.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir has the names of a directory survive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// removeLeftovers takes away what an installer has left that was killed while it
// wrote.
func removeLeftovers(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, tmpPattern))
	for _, path := range left {
		err = errors.Join(err, remove(path))
	}
	return err
}

// copyProgram puts the program at from into dir under name, unless it is there
// already.
func copyProgram(from, dir, name string) (changed bool, err error) {
	raw, err := os.ReadFile(from)
	if err != nil {
		return false, err
	}
	path := filepath.Join(dir, name)
	const mode = 0o755
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, raw) {
		m, err := metaOf(path)
		if err == nil && m.Mode == mode && m.Link == "" {
			return false, nil
		}
	}
	return true, replace(path, raw, meta{Mode: mode, UID: os.Geteuid(), GID: os.Getegid()})
}
