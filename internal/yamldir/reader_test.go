package yamldir

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dir is a directory of manifests under test.
type dir struct {
	t      *testing.T
	path   string
	reader *Reader
}

// newDir makes an empty directory. Files that hold the word refuse fail the check.
func newDir(t *testing.T) *dir {
	d := &dir{t: t, path: t.TempDir()}
	d.reader = NewReader(Config{Dir: d.path, Check: func(f *File) error {
		for _, doc := range f.Documents {
			if strings.Contains(string(doc.JSON), "refuse") {
				return doc.Errorf("spec", "refused")
			}
		}
		return nil
	}})
	return d
}

// pods is a file of pods.
func pods(names ...string) string {
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintf(&text, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: %q}\n", name)
	}
	return text.String()
}

// write replaces a file in one step; an empty text removes it.
func (d *dir) write(name, text string) {
	d.t.Helper()
	path := filepath.Join(d.path, name)
	if text == "" {
		if err := os.Remove(path); err != nil {
			d.t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		d.t.Fatal(err)
	}
}

// want reads and compares: "file: names" for what is in force, then "! " and what
// is refused.
func (d *dir) want(why string, want ...string) {
	d.t.Helper()
	set, _ := d.reader.Read(d.t.Context())
	if got := describeSet(set, d.path); got != strings.Join(want, "\n") {
		d.t.Errorf("%s: got\n%s\nwant\n%s", why, got, strings.Join(want, "\n"))
	}
}

// describeSet writes a set as lines.
func describeSet(set Set, dir string) string {
	var lines []string
	for _, f := range set.Files {
		line := filepath.Base(f.Path) + ":"
		for _, doc := range f.Documents {
			line += " " + doc.Name
		}
		lines = append(lines, line)
	}
	for _, e := range set.Refused {
		lines = append(lines, "! "+strings.ReplaceAll(e.Error(), dir+"/", ""))
	}
	return strings.Join(lines, "\n")
}

func TestLastGoodStateOfAFileStaysInForce(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("a1", "a2"))
	d.write("b.yaml", pods("b1"))
	d.want("at first", "a.yaml: a1 a2", "b.yaml: b1")
	d.write("a.yaml", pods("a1")+"spec: refuse\n")
	d.write("b.yaml", pods("b1", "b2"))
	d.want("a is refused, b goes on", "a.yaml: a1 a2", "b.yaml: b1 b2", "! a.yaml:5: Pod a1: spec: refused")
	d.write("a.yaml", "kind: [")
	d.want("refused for another reason", "a.yaml: a1 a2", "b.yaml: b1 b2", "! a.yaml:1: did not find expected node content")
	d.write("a.yaml", pods("a3"))
	d.want("mended", "a.yaml: a3", "b.yaml: b1 b2")
	d.write("a.yaml", "oops")
	d.write("a.yaml", "")
	d.want("removed while bad: gone", "b.yaml: b1 b2")
}

func TestFirstStateOfAFileIsBad(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", "oops")
	d.want("nothing is in force", "! a.yaml:1: want a Kubernetes object with apiVersion, kind and metadata")
}

func TestEmptyFileIsTakenForOneThatIsBeingWritten(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("a1"))
	d.want("at first", "a.yaml: a1")
	d.write("a.yaml", "\n")
	d.want("empty", "a.yaml: a1", "! a.yaml: is empty: remove the file to remove its objects")
	d.write("a.yaml", "# nothing, and meant so\n")
	d.want("a comment is meant so", "a.yaml:")
}

func TestOneObjectInTwoFiles(t *testing.T) {
	d := newDir(t)
	d.write("b.yaml", pods("x", "b1"))
	d.want("at first", "b.yaml: x b1")
	d.write("a.yaml", pods("a1", "x"))
	d.want("who held it keeps it, whatever the order of names", "b.yaml: x b1",
		"! a.yaml:6: Pod x: stands in two files: here and in b.yaml:2, which stays in force")
	d.write("b.yaml", pods("b1"))
	d.want("the other file may have it once it is free", "a.yaml: a1 x", "b.yaml: b1")
	d.write("a.yaml", pods("a1"))
	d.write("b.yaml", pods("b1", "x"))
	d.want("moved in one step", "a.yaml: a1", "b.yaml: b1 x")
	d.write("c.yaml", pods("x"))
	d.write("b.yaml", pods("b1", "refuse"))
	d.want("a refused file holds its objects", "a.yaml: a1", "b.yaml: b1 x",
		"! b.yaml:6: Pod refuse: spec: refused", "! c.yaml:2: Pod x: stands in two files: here and in b.yaml:6, which stays in force")
}

func TestTwoNewFilesWithOneObject(t *testing.T) {
	d := newDir(t)
	d.write("b.yaml", pods("x"))
	d.write("a.yaml", pods("x"))
	d.want("the first by name wins", "a.yaml: x", "! b.yaml:2: Pod x: stands in two files: here and in a.yaml:2, which stays in force")
}

// A file that falls back may collide with one that took what it gave up; that one
// falls back too, and the end is what was in force before.
func TestFallingBackGoesOn(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("x"))
	d.write("b.yaml", pods("y"))
	d.write("c.yaml", pods("z"))
	d.want("at first", "a.yaml: x", "b.yaml: y", "c.yaml: z")
	d.write("a.yaml", pods("y"))
	d.write("b.yaml", pods("z"))
	d.want("c keeps z, so b keeps y, so a keeps x", "a.yaml: x", "b.yaml: y", "c.yaml: z",
		"! a.yaml:2: Pod y: stands in two files: here and in b.yaml:2, which stays in force",
		"! b.yaml:2: Pod z: stands in two files: here and in c.yaml:2, which stays in force")
}

func TestOneObjectTwiceInOneFile(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("x", "y", "x"))
	d.want("refused", "! a.yaml:10: Pod x: stands twice in this file: here and in line 2")
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	d := newDir(t)
	for _, name := range []string{".hidden.yaml", "notes.txt", "a.yaml.swp"} {
		d.write(name, "oops")
	}
	if err := os.Mkdir(filepath.Join(d.path, "sub.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.want("nothing is read")
}

func TestDirectoryThatVanishesChangesNothing(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("a1"))
	d.want("at first", "a.yaml: a1")
	if err := os.Rename(d.path, d.path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.reader.Read(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Read of a directory that is not there: %v", err)
	}
	d.want("the last state stays in force", "a.yaml: a1", "! "+d.path+": open "+d.path+": no such file or directory")
	if err := os.Rename(d.path+".away", d.path); err != nil {
		t.Fatal(err)
	}
	d.want("it is back", "a.yaml: a1")
}

func TestFileThatCannotBeReadKeepsItsLastGoodState(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("a1"))
	d.want("at first", "a.yaml: a1")
	path := filepath.Join(d.path, "a.yaml")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a.yaml", path); err != nil { // to itself
		t.Fatal(err)
	}
	d.want("unreadable", "a.yaml: a1", "! a.yaml: stat a.yaml: too many levels of symbolic links")
}

func TestWatchTellsOfEveryChange(t *testing.T) {
	d := newDir(t)
	d.write("a.yaml", pods("a1"))
	told := make(chan string, 16)
	done := make(chan error, 1)
	go func() {
		done <- d.reader.Watch(t.Context(), func(s Set) { told <- describeSet(s, d.path) })
	}()
	t.Cleanup(func() { // the test's context has ended
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	want := func(why, want string) {
		t.Helper()
		for {
			select {
			case got := <-told:
				if got == want {
					return
				}
				t.Logf("%s: on the way: %s", why, got)
			case err := <-done:
				done <- nil
				t.Fatalf("%s: Watch ended: %v", why, err)
			}
		}
	}
	want("the first read", "a.yaml: a1")
	d.write("b.yaml", pods("b1"))
	want("a file moved in", "a.yaml: a1\nb.yaml: b1")
	if err := os.WriteFile(filepath.Join(d.path, "b.yaml"), []byte(pods("b2")), 0o600); err != nil {
		t.Fatal(err)
	}
	want("a file written in place", "a.yaml: a1\nb.yaml: b2")
	d.write("a.yaml", "")
	want("a file removed", "b.yaml: b2")

	// What Kubernetes does with a ConfigMap: files are links through one directory
	// link, which is replaced.
	for _, version := range []string{"1", "2"} {
		if err := os.Mkdir(filepath.Join(d.path, "..v"+version), 0o700); err != nil {
			t.Fatal(err)
		}
		d.write("..v"+version+"/c.yaml", pods("c"+version))
	}
	link := func(target string) {
		if err := os.Symlink(target, filepath.Join(d.path, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(d.path, "..tmp"), filepath.Join(d.path, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	link("..v1")
	if err := os.Symlink("..data/c.yaml", filepath.Join(d.path, "c.yaml")); err != nil {
		t.Fatal(err)
	}
	want("a linked file", "b.yaml: b2\nc.yaml: c1")
	link("..v2")
	want("its link was moved", "b.yaml: b2\nc.yaml: c2")
}

// Notifications are of the directory that was there at first; another one in its
// place is found by looking again.
func TestWatchFindsADirectoryThatWasReplaced(t *testing.T) {
	d := newDir(t)
	d.reader = NewReader(Config{Dir: d.path, Poll: 10 * time.Millisecond})
	d.write("a.yaml", pods("a1"))
	told := make(chan string, 16)
	done := make(chan error, 1)
	go func() {
		done <- d.reader.Watch(t.Context(), func(s Set) { told <- describeSet(s, d.path) })
	}()
	t.Cleanup(func() { <-done })
	for got := <-told; got != "a.yaml: a1"; got = <-told {
		t.Logf("on the way: %s", got)
	}
	if err := os.Rename(d.path, d.path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.path, 0o700); err != nil {
		t.Fatal(err)
	}
	d.write("b.yaml", pods("b1"))
	for got := <-told; got != "b.yaml: b1"; got = <-told {
		t.Logf("on the way: %s", got)
	}
}

func TestWatchOfNoDirectoryIsAnError(t *testing.T) {
	r := NewReader(Config{Dir: filepath.Join(t.TempDir(), "none")})
	if err := r.Watch(t.Context(), func(Set) { t.Error("told of something") }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Watch = %v, want a missing directory", err)
	}
}

// What is in force is found by looking at what has changed only. It is the same
// as when everything is looked at, whatever has happened to the files before.
func TestChangesAgainstLookingAtEverything(t *testing.T) {
	d := newDir(t)
	thorough := NewReader(d.reader.cfg)
	r := rand.New(rand.NewPCG(1, 2))
	for step := range 120 {
		distinct := 12 << (step % 3) // seldom, or often, in two files
		for range 1 + r.IntN(3) {
			name := fmt.Sprintf("f%d.yaml", r.IntN(5))
			var text string
			if r.IntN(8) > 0 {
				var names []string
				for range 1 + r.IntN(3) {
					names = append(names, fmt.Sprintf("p%d", r.IntN(distinct)))
				}
				text = pods(names...)
				if r.IntN(10) == 0 {
					text += "spec: refuse\n"
				}
			} else if _, err := os.Stat(filepath.Join(d.path, name)); err != nil {
				continue // it is not there to be removed
			}
			d.write(name, text)
		}
		thorough.owners = nil
		got, err1 := d.reader.Read(t.Context())
		want, err2 := thorough.Read(t.Context())
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if g, w := describeSet(got, d.path), describeSet(want, d.path); g != w {
			t.Fatalf("step %d: got\n%s\nwant\n%s", step, g, w)
		}
	}
}
