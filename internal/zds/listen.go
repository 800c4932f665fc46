package zds

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// Listen makes the agent's socket at path, in a directory that only its owner
// can enter: descriptors of every pod of the node go through it. What an agent
// before us has left at path is replaced.
//
// The directory is made when it is missing. One that others can enter is closed
// to them if it holds nothing but the socket, and refused otherwise.
func Listen(path string) (*net.UnixListener, error) {
	if err := PrivateDir(path); err != nil {
		return nil, err
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("listen on %s: a file that is not a socket is in the way", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	// A successor may have put its own socket there by the time we close ours.
	l.SetUnlinkOnClose(false)
	return l, nil
}

// PrivateDir makes sure that only the owner, who must be us, can enter the
// directory of the socket at path.
func PrivateDir(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("directory %s belongs to user %d, want %d", dir, sys.Uid, os.Geteuid())
	}
	if st.Mode().Perm()&0o077 == 0 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSocket == 0 {
			return fmt.Errorf("directory %s is open to others (mode %v) and holds other things (%s): "+
				"choose a directory of its own for the socket, or chmod 700 it", dir, st.Mode().Perm(), e.Name())
		}
	}
	return os.Chmod(dir, 0o700)
}
