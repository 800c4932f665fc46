package kubetest

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFoldersOfTheKilledAreSwept(t *testing.T) {
	parent := t.TempDir()
	make := func() *folder {
		f, err := makeFolder(parent)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	alive, killed := make(), make()
	if err := killed.lock.Close(); err != nil { // as the kernel does
		t.Fatal(err)
	}
	another := make() // sweeps
	for name, tt := range map[string]struct {
		f    *folder
		want bool
	}{"of one that lives": {alive, true}, "of one that was killed": {killed, false}, "the new one": {another, true}} {
		if _, err := os.Stat(tt.f.dir); (err == nil) != tt.want {
			t.Errorf("folder %s: %v, want it there: %v", name, err, tt.want)
		}
	}
	for _, f := range []*folder{alive, another} {
		if err := f.remove(); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(parent)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
