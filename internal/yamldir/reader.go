package yamldir

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxFileBytes is the largest file that is read. Our choice: some 50,000 pods;
// above it somebody has put something else into the directory.
const maxFileBytes = 256 << 20

// Config says what to read. Dir is required.
type Config struct {
	// Dir is the directory. Sub-directories are not read.
	Dir string

	// Check is asked about each file that parses and is new or changed. What it
	// returns, one or many joined [*Error]s, refuses the file. Nil accepts all.
	Check func(*File) error

	// Poll is how often Watch reads the directory without being told of a change,
	// in case the directory was replaced or lies on a file system that does not
	// tell. Zero means 2 seconds.
	Poll time.Duration
}

// File is the content of one file.
type File struct {
	Path      string
	Documents []*Document
}

// Set is what a directory says. It is never changed.
type Set struct {
	// Files are in force, by path. One that is refused now stands here with its
	// last good content, if it ever had any.
	Files []*File

	// Refused is what is wrong now, by file and line.
	Refused []*Error

	// Unheard are files that are refused and have never been in force, as far as
	// this Reader knows: there is no last good state to go on with. After a
	// restart that may be a file which was in force before.
	Unheard []Unheard
}

// Unheard is a file of which nothing is in force.
type Unheard struct {
	Path string
	Text []byte // nil when it cannot be read
}

// Reader reads one directory and remembers the last good state of each file.
type Reader struct {
	cfg Config

	// mu guards the fields below and orders reads.
	mu    sync.Mutex
	files map[string]*entry // by path
	stale bool              // something has changed since settle
	dir   *Error            // why the directory itself cannot be read

	// owners are the objects of what is in force, inForce, by their keys; nil while
	// files hold the same object.
	owners  map[Key]*Document
	inForce map[string]*File // by path
}

// entry is what is known of one file.
type entry struct {
	stamp     stamp
	content   []byte   // as read last
	candidate *File    // of content; nil when refused
	refused   []*Error // of content, without conflicts
	conflicts []*Error // with other files
	good      *File    // in force; nil when there never was one
}

// stamp tells whether a file may have changed.
type stamp struct {
	size, mtime, ctime int64
	inode              uint64
}

// NewReader makes a reader of cfg.Dir. It reads nothing yet.
func NewReader(cfg Config) *Reader {
	cfg.Poll = cmp.Or(cfg.Poll, 2*time.Second)
	return &Reader{cfg: cfg, files: map[string]*entry{}}
}

// Read reads what has changed since the last call and returns what is in force.
// The error is that of the directory itself; what is wrong with a file stands in
// [Set.Refused]. A directory that cannot be read any more changes nothing else.
func (r *Reader) Read(ctx context.Context) (Set, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.scan(ctx)
	switch {
	case err == nil:
		r.dir = nil
	case ctx.Err() == nil: // else it is the caller that is in a hurry
		r.dir = &Error{File: r.cfg.Dir, Err: err}
	}
	r.settle()
	return r.set(), err
}

// scan brings the entries up to date with the directory.
func (r *Reader) scan(ctx context.Context) error {
	listed, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		return err
	}
	gone := maps.Clone(r.files)
	for _, item := range listed {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		path := filepath.Join(r.cfg.Dir, item.Name())
		if !wanted(item.Name()) {
			continue
		}
		info, err := os.Stat(path) // follows links: ConfigMap volumes are made of them
		if errors.Is(err, os.ErrNotExist) && !isLink(path) {
			continue // removed just now
		}
		if err == nil && info.IsDir() && r.files[path] == nil {
			continue // but a file that became one is refused
		}
		delete(gone, path)
		r.update(path, info, err)
	}
	for path := range gone {
		delete(r.files, path)
		r.stale = true
	}
	return nil
}

// isLink reports whether path is there as a symbolic link. One that leads nowhere
// is not a file that was removed.
func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

// wanted reports whether a file of that name holds manifests.
func wanted(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(name, ".")
	}
	return false
}

// update reads one file if it may have changed.
func (r *Reader) update(path string, info os.FileInfo, err error) {
	e := r.files[path]
	if e == nil {
		e = &entry{}
		r.files[path] = e
	}
	before, same := e.candidate, e.refused
	defer func() {
		r.stale = r.stale || e.candidate != before || !slices.Equal(e.refused, same)
	}()
	if err == nil {
		now := stampOf(info)
		if e.stamp == now {
			return
		}
		e.stamp = now
		err = e.load(path, r.cfg.Check)
		if isFresh(info, time.Now()) {
			e.stamp = stamp{} // a further change may bear the same time: look again
		}
	}
	if err != nil {
		e.stamp, e.content, e.candidate = stamp{}, nil, nil
		e.refused = []*Error{{File: path, Err: err}}
	}
}

// stampOf is the stamp of a file.
func stampOf(info os.FileInfo) stamp {
	s := stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode, s.ctime = sys.Ino, sys.Ctim.Nano()
	}
	return s
}

// freshTime is within how long after a change of a file another one may bear the
// same time. Our choice: many ticks of any clock that stamps files.
const freshTime = 100 * time.Millisecond

// isFresh reports whether a file was changed a moment before now.
func isFresh(info os.FileInfo, now time.Time) bool {
	s := stampOf(info)
	return now.UnixNano()-max(s.mtime, s.ctime) < int64(freshTime)
}

// readRegular reads a regular file of bounded size. What path leads to is looked
// at once it is open: whoever can write into the directory must not make us read
// or wait for anything else.
func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("is %v, want a regular file", info.Mode().Type())
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("has %d bytes, want at most %d", info.Size(), maxFileBytes)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(content) > maxFileBytes {
		err = fmt.Errorf("has more than %d bytes", maxFileBytes)
	}
	return content, err
}

// load parses and checks the file at path.
func (e *entry) load(path string, check func(*File) error) error {
	content, err := readRegular(path)
	if err != nil {
		var at *os.PathError
		if errors.As(err, &at) {
			err = at.Err // the path is in front already
		}
		return err
	}
	if e.content != nil && bytes.Equal(content, e.content) {
		return nil
	}
	e.content, e.candidate, e.refused = content, nil, nil
	file := &File{Path: path}
	if file.Documents, err = Parse(path, content); err == nil {
		err = e.accept(file, check)
	}
	if err != nil {
		e.refused = errorsOf(path, err)
		return nil
	}
	e.candidate = file
	return nil
}

// accept runs all checks that need only the file.
func (e *entry) accept(file *File, check func(*File) error) error {
	if len(bytes.TrimSpace(e.content)) == 0 && e.good != nil && len(e.good.Documents) > 0 {
		return errors.New("is empty: remove the file to remove its objects") // or it is being written
	}
	first := map[Key]*Document{}
	var errs []error
	for _, d := range file.Documents {
		if other := first[d.Key()]; other != nil {
			errs = append(errs, d.Errorf("", "stands twice in this file: here and in line %d", other.Line))
			continue
		}
		first[d.Key()] = d
	}
	if len(errs) == 0 && check != nil {
		return check(file)
	}
	return errors.Join(errs...)
}

// settle decides what is in force: candidates, unless two files hold the same
// object. Then the one that held it before keeps it, else the first by name; the
// other file falls back to its last good state, which may conflict in turn.
// Since the states that were in force never conflict, this comes to an end.
func (r *Reader) settle() {
	if !r.stale {
		return
	}
	r.stale = false
	paths := slices.Sorted(maps.Keys(r.files))
	next := map[string]*File{}
	for _, path := range paths {
		e := r.files[path]
		e.conflicts = nil
		next[path] = cmp.Or(e.candidate, e.good)
	}
	if !r.replace(next) {
		r.owners = nil
		for r.fallBack(paths, next) {
		}
	}
	r.inForce = next
	for path, file := range next {
		r.files[path].good = file
	}
}

// replace brings the owners up to date with next, looking at what differs only: a
// directory may hold many thousand objects, and a change is about few. It reports
// false when files hold the same object, or did so before: then all of them have to
// be looked at.
func (r *Reader) replace(next map[string]*File) bool {
	if r.owners == nil {
		return false
	}
	for path, file := range r.inForce {
		if file == nil || next[path] == file {
			continue
		}
		for _, d := range file.Documents {
			delete(r.owners, d.Key())
		}
	}
	for path, file := range next {
		if file == nil || r.inForce[path] == file {
			continue
		}
		for _, d := range file.Documents {
			if r.owners[d.Key()] != nil {
				return false
			}
			r.owners[d.Key()] = d
		}
	}
	return true
}

// fallBack finds files that hold the same object and puts the losers back to
// their last good state. It reports whether it did.
func (r *Reader) fallBack(paths []string, next map[string]*File) bool {
	owner := map[Key]*Document{}
	losers := map[string]bool{}
	for _, path := range paths {
		if next[path] == nil {
			continue
		}
		for _, d := range next[path].Documents {
			other := owner[d.Key()]
			if other == nil {
				owner[d.Key()] = d
				continue
			}
			loser, winner := d, other
			if r.keeps(next, d) && !r.keeps(next, other) {
				loser, winner = other, d
				owner[d.Key()] = d
			}
			losers[loser.File] = true
			r.files[loser.File].conflicts = append(r.files[loser.File].conflicts,
				loser.Errorf("", "stands in two files: here and in %s:%d, which stays in force", winner.File, winner.Line))
		}
	}
	for path := range losers {
		next[path] = r.files[path].good
	}
	if !r.conflicted() {
		r.owners = owner
	}
	return len(losers) > 0
}

// conflicted reports whether a file holds an object that another one keeps.
func (r *Reader) conflicted() bool {
	for _, e := range r.files {
		if len(e.conflicts) > 0 {
			return true
		}
	}
	return false
}

// keeps reports whether the file of d held the same object before, or has
// fallen back to what it held before.
func (r *Reader) keeps(next map[string]*File, d *Document) bool {
	good := r.files[d.File].good
	if good == nil {
		return false
	}
	return good == next[d.File] || slices.ContainsFunc(good.Documents, func(o *Document) bool { return o.Key() == d.Key() })
}

// set is what is in force now. The caller holds r.mu.
func (r *Reader) set() Set {
	var s Set
	if r.dir != nil {
		s.Refused = append(s.Refused, r.dir)
	}
	for _, path := range slices.Sorted(maps.Keys(r.files)) {
		e := r.files[path]
		if e.good != nil {
			s.Files = append(s.Files, e.good)
		} else {
			s.Unheard = append(s.Unheard, Unheard{Path: path, Text: e.content})
		}
		s.Refused = append(s.Refused, e.refused...)
		s.Refused = append(s.Refused, e.conflicts...)
	}
	return s
}

// Equal reports whether two sets say the same.
func (s Set) Equal(o Set) bool {
	return slices.Equal(s.Files, o.Files) &&
		slices.EqualFunc(s.Refused, o.Refused, func(x, y *Error) bool { return x.Error() == y.Error() })
}

// errorsOf takes joined errors apart and gives those without a place the file.
func errorsOf(path string, err error) []*Error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*Error
		for _, e := range joined.Unwrap() {
			all = append(all, errorsOf(path, e)...)
		}
		return all
	}
	var placed *Error
	if errors.As(err, &placed) {
		return []*Error{placed}
	}
	return []*Error{{File: path, Err: err}}
}
