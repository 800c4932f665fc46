package lab

import (
	"os"

	"golang.org/x/sys/unix"
)

// IsTerminal reports whether a person looks at f.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
