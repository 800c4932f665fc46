package kubetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// folderPattern is how the folders of servers are called, and lockName the file in
// each that its process has locked for as long as it lives.
const folderPattern, lockName = "kubetest-*", "lock"

// folder is where a server keeps its files. Others remove it when this process is
// gone without having done so.
type folder struct {
	dir  string
	lock *os.File
}

// makeFolder makes a folder in parent, after those were removed whose processes
// were killed.
func makeFolder(parent string) (*folder, error) {
	if err := sweep(parent); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, folderPattern)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir}
	// Under another name until it is locked: nobody takes it for one that was left.
	wait := filepath.Join(dir, lockName+".new")
	if f.lock, err = os.Create(wait); err == nil {
		if err = lock(f.lock); err == nil {
			err = os.Rename(wait, filepath.Join(dir, lockName))
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.remove())
	}
	return f, nil
}

// lock takes the lock of a file, or fails at once.
func lock(f *os.File) error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// remove takes the folder away.
func (f *folder) remove() error {
	err := os.RemoveAll(f.dir)
	if f.lock != nil {
		err = errors.Join(err, f.lock.Close()) // which unlocks
	}
	return err
}

// sweep removes the folders in parent that no process has locked.
func sweep(parent string) error {
	locks, err := filepath.Glob(filepath.Join(parent, folderPattern, lockName))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range locks {
		f, err := os.Open(path)
		if err != nil {
			continue // somebody else removes it, or it is somebody else's
		}
		if lock(f) == nil {
			errs = append(errs, os.RemoveAll(filepath.Dir(path)))
		}
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
