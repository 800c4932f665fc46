package ca

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// settleTime is how long after its last change a file is read again even though
// it looks unchanged: a second write can fall into the same tick of the clock
// that stamps files.
const settleTime = 2 * time.Second

// fileVersion tells one state of a file from another. The zero value is a file
// that is absent.
type fileVersion struct {
	inode    uint64
	size     int64
	mode     os.FileMode
	modified int64 // nanoseconds since 1970
	changed  int64 // the same, of the inode: a chmod counts
}

// versionOf reads the version of a file.
func versionOf(info os.FileInfo) fileVersion {
	v := fileVersion{size: info.Size(), mode: info.Mode(), modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.inode = st.Ino
		v.changed = st.Ctim.Nano()
	}
	return v
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // os names the act and the path
	}
	defer f.Close()
	return readOpen(f, limit)
}

// readSecret reads a file that nobody but its owner may write and that is closed
// to all but its owner and group.
func readSecret(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what is read, whatever path leads to by now
	if err != nil {
		return nil, err
	}
	if open := info.Mode().Perm() & 0o027; open != 0 {
		return nil, fmt.Errorf("%s is open to others (mode %#o): try chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return readOpen(f, limit)
}

// readOpen reads at most limit bytes of f; more is an error.
func readOpen(f *os.File, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", f.Name(), limit)
	}
	return data, nil
}

// writeFile puts data at path at once and for good: readers see the old file or
// the new one, also after a crash. With create it is an error, [os.ErrExist],
// when there is a file already.
func writeFile(path string, data []byte, mode os.FileMode, create bool) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if rm := os.Remove(f.Name()); err == nil && !errors.Is(rm, os.ErrNotExist) {
			err = rm
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if create {
		err = os.Link(f.Name(), path)
	} else {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
