// Package buildinfo says which build a program is. All programs of the mesh say it
// in the same words.
package buildinfo

import (
	"crypto/fips140"
	"runtime"
	"runtime/debug"
)

// undecided is the version of a program that was linked without one.
const undecided = "dev"

// Version is the version that the linker wrote, or where that is "dev" or empty the
// version of the module, or "dev-" and the commit, as far as the build has recorded it.
func Version(linked string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return version(linked, info)
}

// Line is what --version says: the program, its version, what built it and for which
// system, and that its cryptography is the FIPS 140-3 module where it is.
func Line(name, linked string) string {
	text := name + " " + Version(linked) + " (" + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + ")"
	if fips140.Enabled() {
		text += ", FIPS 140-3 module in force"
	}
	return text
}

// commitDigits are enough of a commit to find it.
const commitDigits = 12

func version(linked string, info *debug.BuildInfo) string {
	if linked != "" && linked != undecided {
		return linked
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= commitDigits {
			return undecided + "-" + s.Value[:commitDigits]
		}
	}
	return undecided
}
