package yamldir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAliasesThatBlowUpAreRefused(t *testing.T) {
	lol := "a0: &a0 [lol, lol]\n"
	for i := 1; i < 30; i++ {
		lol += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i, i, i-1, i-1)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"a long text, named often", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  annotations:\n    a: &a " + strings.Repeat("x", 1<<20) + "\n" +
			strings.Repeat("    ? k%d\n    : *a\n", 64), "when its aliases"},
		{"lists of lists", lol, "when its aliases"},
		{"an alias of what it stands in", "a: &a [*a]\n", "contains itself"},
		{"ordinary ones", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: &n x\n  labels: {app: *n}\n", ""},
		{"no aliases, the same signs", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  annotations: {a: 'b && c *'}\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := tt.text
			for i := 0; strings.Contains(text, "k%d"); i++ {
				text = strings.Replace(text, "k%d", fmt.Sprintf("k%d", i), 1)
			}
			_, err := Parse("x.yaml", []byte(text))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// Whoever may write into the directory must not be able to stop us reading it.
func TestWhatIsNoFileIsNotWaitedFor(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("a1"))
	if err := syscall.Mkfifo(filepath.Join(d.path, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(d.path, "zero.yaml")); err != nil {
		t.Fatal(err)
	}
	d.want("refused", "a.yaml: a1", "! pipe.yaml: is p---------, want a regular file", "! zero.yaml: is Dc---------, want a regular file")
	// The same, had it become one after it was looked at.
	if _, err := readRegular(filepath.Join(d.path, "pipe.yaml")); err == nil {
		t.Error("a pipe is read")
	}
}

// A link that leads nowhere is not a file that somebody has removed.
func TestDanglingLinkKeepsTheLastGoodState(t *testing.T) {
	d := newDir(t)
	target := filepath.Join(t.TempDir(), "real")
	if err := os.WriteFile(target, []byte(pods("a1")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(d.path, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	d.want("at first", "a.yaml: a1")
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	d.want("its target is gone", "a.yaml: a1", "! a.yaml: stat a.yaml: no such file or directory")
	d.write("a.yaml", "")
	d.want("the link is gone")
}

// Nor is a directory in the place of a file, as container runtimes make them.
func TestFileThatBecomesADirectoryKeepsItsLastGoodState(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("a1"))
	d.want("at first", "a.yaml: a1")
	d.write("a.yaml", "")
	if err := os.Mkdir(filepath.Join(d.path, "a.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.want("a directory", "a.yaml: a1", "! a.yaml: is d---------, want a regular file")
}

// A caller that gives up says nothing about the directory.
func TestReadThatIsGivenUp(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("a1"))
	d.want("at first", "a.yaml: a1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	set, err := d.reader.Read(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Read = %v", err)
	}
	if got := describeSet(set, d.path); got != "a.yaml: a1" {
		t.Errorf("the set is\n%s", got)
	}
}

// Clocks of file systems are coarse: two changes may bear one time.
func TestTwoChangesOfOneTimeAndSize(t *testing.T) {
	d := newDir(t)
	path := filepath.Join(d.path, "a.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(pods("a1"))
	d.want("at first", "a.yaml: a1")
	write(pods("a2"))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !isFresh(info, time.Now()) || isFresh(info, time.Now().Add(freshTime)) {
		t.Error("a file is fresh for another time than it should be")
	}
	d.want("the second", "a.yaml: a2")
	if d.reader.files[path].stamp != (stamp{}) {
		t.Error("a file that was changed a moment ago is not looked at again")
	}
}

func TestUnheard(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("a1"))
	d.write("b.yaml", pods("refuse"))
	unheard := func(want string) {
		t.Helper()
		set, err := d.reader.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, u := range set.Unheard {
			got = append(got, fmt.Sprintf("%s %d", filepath.Base(u.Path), len(u.Text)))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("unheard %q, want %q", got, want)
		}
	}
	unheard(fmt.Sprintf("b.yaml %d", len(pods("refuse"))))
	d.write("a.yaml", pods("refuse", "x")) // has a last good state
	unheard(fmt.Sprintf("b.yaml %d", len(pods("refuse"))))
	d.write("b.yaml", pods("b1"))
	unheard("")
	if err := os.Symlink("c.yaml", filepath.Join(d.path, "c.yaml")); err != nil {
		t.Fatal(err)
	}
	unheard("c.yaml 0")
}
