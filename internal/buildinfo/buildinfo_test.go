package buildinfo

import (
	"crypto/fips140"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestVersion(t *testing.T) {
	commit := []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "0123456789abcdef"}}
	tests := []struct {
		name, linked string
		info         debug.BuildInfo
		want         string
	}{
		{"the linker's word counts", "v1.2", debug.BuildInfo{Main: debug.Module{Version: "v9.9"}}, "v1.2"},
		{"built as a module of a version", "dev", debug.BuildInfo{Main: debug.Module{Version: "v1.3"}, Settings: commit}, "v1.3"},
		{"built in a checkout", "dev", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: commit}, "dev-0123456789ab"},
		{"nothing linked", "", debug.BuildInfo{Settings: commit}, "dev-0123456789ab"},
		{"nothing known", "dev", debug.BuildInfo{}, "dev"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := version(tt.linked, &tt.info); got != tt.want {
				t.Errorf("version = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLine(t *testing.T) {
	line := Line("ztunnel", "v1.2")
	if want := "ztunnel v1.2 (" + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + ")"; !strings.HasPrefix(line, want) {
		t.Errorf("Line = %q, want it to begin with %q", line, want)
	}
	if got := strings.Contains(line, "FIPS"); got != fips140.Enabled() {
		t.Errorf("Line = %q, and FIPS mode is %v", line, fips140.Enabled())
	}
}
