package files

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/yamldir"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Source tells of the objects in one directory.
type Source struct {
	// Set by New, then only read.
	dir    string
	log    *zap.Logger
	reader *yamldir.Reader

	// tell orders what is told. It is held while the receiver runs.
	tell      sync.Mutex
	told      map[model.Key]decoded  // what the receiver knows; guarded by tell
	toldFiles map[*yamldir.File]held // where that stands; guarded by tell
	begun     bool                   // the receiver has been told something, be it that nothing is there; guarded by tell

	// mu guards the fields below. Lock order: tell, then the reader's, then mu.
	mu      sync.Mutex
	checked map[*yamldir.File]held // by Check, so that nothing is decoded twice
	files   map[*yamldir.File]held // in force
	report  Report
	places  map[model.Key]string
}

// held is what a file holds. A file in force does not change: another one comes in
// its place. So what has to be looked at again is what differs by file.
type held struct {
	objects []decoded
	ignored []Ignored
}

// Report is what a directory holds and what is wrong with it.
type Report struct {
	Dir     string    `json:"dir"`
	Files   int       `json:"files"` // in force
	Objects int       `json:"objects"`
	Refused []Refused `json:"refused"`
	Ignored []Ignored `json:"ignored"`
	// Waiting are refused files that may hold policies, of which it is not known
	// what they said before. Nothing is told while there are any at the start.
	Waiting []string `json:"waiting,omitempty"`
}

// Refused is why a file, or what was changed in it last, is not in force.
type Refused struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Object string `json:"object,omitempty"`
	Reason string `json:"reason"`
}

// Ignored is an object of a kind that is not read.
type Ignored struct {
	File       string `json:"file"`
	Line       int    `json:"line"`
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
}

// New makes a source. It reads nothing yet.
func New(dir string, log *zap.Logger) *Source {
	s := &Source{
		dir:     dir,
		log:     log.Named("files"),
		told:    map[model.Key]decoded{},
		checked: map[*yamldir.File]held{},
		places:  map[model.Key]string{},
		report:  Report{Dir: dir, Refused: []Refused{}, Ignored: []Ignored{}},
	}
	s.reader = yamldir.NewReader(yamldir.Config{Dir: dir, Check: s.check})
	return s
}

// Run tells fn of all objects, and of every difference after that, until ctx
// ends. The first call of fn comes as soon as the directory has been read, also
// when it is empty, but not while [Report.Waiting] names files: to proxies that
// hold their policies it would look as if those were gone. Calls never overlap.
// The error is that the directory cannot be watched.
func (s *Source) Run(ctx context.Context, fn func([]model.Event)) error {
	return s.reader.Watch(ctx, func(yamldir.Set) { s.sync(ctx, fn) })
}

// Refresh reads the directory now and tells fn of what differs, for whoever
// cannot wait until Run has noticed. fn must be the one that Run was given.
func (s *Source) Refresh(ctx context.Context, fn func([]model.Event)) error {
	return s.sync(ctx, fn)
}

// Report is the state of the directory as it was read last.
func (s *Source) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report
}

// Place is file and line of an object; empty if it is in none.
func (s *Source) Place(key model.Key) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.places[key]
}

// check is asked by the reader about each new file.
func (s *Source) check(f *yamldir.File) error {
	h, err := hold(f)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked[f] = h
	return nil
}

// hold decodes a file.
func hold(f *yamldir.File) (h held, err error) {
	if h.objects, err = decodeFile(f); err != nil {
		return held{}, err
	}
	for _, d := range f.Documents {
		if _, known, _ := formatOf(d); !known {
			h.ignored = append(h.ignored, Ignored{File: d.File, Line: d.Line, APIVersion: d.APIVersion, Kind: d.Kind, Name: d.Name})
		}
	}
	return h, nil
}

// sync reads what changed and tells fn, if there is anything to tell.
func (s *Source) sync(ctx context.Context, fn func([]model.Event)) error {
	s.tell.Lock()
	defer s.tell.Unlock()
	set, err := s.reader.Read(ctx)
	var waiting []string
	if !s.begun {
		waiting = mayHoldPolicies(set)
	}
	files := s.publish(set, waiting)
	if len(waiting) > 0 || !s.begun && err != nil {
		return err
	}
	if events := s.differences(files); !s.begun || len(events) > 0 {
		s.begun = true
		fn(events)
	}
	return err
}

// restricting are words of manifests that keep connections out.
var restricting = [][]byte{
	[]byte("AuthorizationPolicy"), []byte("PeerAuthentication"), []byte("RequestAuthentication"), []byte("istio.io/use-waypoint"),
}

// mayHoldPolicies are the files of which nothing is in force and which may keep
// connections out: by their words, or because nobody knows their words.
func mayHoldPolicies(set yamldir.Set) []string {
	var paths []string
	for _, u := range set.Unheard {
		if u.Text == nil || slices.ContainsFunc(restricting, func(word []byte) bool { return bytes.Contains(u.Text, word) }) {
			paths = append(paths, u.Path)
		}
	}
	return paths
}

// differences are the events that lead from what was told to what files hold. The
// order is that of the keys.
func (s *Source) differences(files map[*yamldir.File]held) []model.Event {
	now := map[model.Key]decoded{} // what stands in files that are new
	for f, h := range files {
		if _, ok := s.toldFiles[f]; ok {
			continue
		}
		for _, o := range h.objects {
			now[o.key] = o
		}
	}
	var events []model.Event
	for f, h := range s.toldFiles {
		if _, ok := files[f]; ok {
			continue
		}
		for _, o := range h.objects {
			if _, ok := now[o.key]; !ok {
				events = append(events, model.Event{Key: o.key})
				delete(s.told, o.key)
			}
		}
	}
	for key, o := range now {
		old, ok := s.told[key]
		s.told[key] = o
		if !ok || !bytes.Equal(old.doc.JSON, o.doc.JSON) {
			events = append(events, model.Event{Key: key, Object: o.object})
		}
	}
	s.toldFiles = files
	slices.SortFunc(events, func(a, b model.Event) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	return events
}

// publish updates what is in force and the report, logs what is new in it, and
// returns what is in force.
func (s *Source) publish(set yamldir.Set, waiting []string) map[*yamldir.File]held {
	report := Report{Dir: s.dir, Files: len(set.Files), Refused: []Refused{}, Ignored: []Ignored{}, Waiting: waiting}
	for _, e := range set.Refused {
		report.Refused = append(report.Refused, Refused{File: e.File, Line: e.Line, Object: e.Object, Reason: e.Err.Error()})
	}
	s.mu.Lock()
	next := make(map[*yamldir.File]held, len(set.Files))
	for _, f := range set.Files {
		h, ok := s.files[f]
		if !ok {
			h, ok = s.checked[f]
		}
		if !ok {
			h, _ = hold(f) // passed once, when it was refused for a conflict
		}
		next[f] = h
		report.Objects += len(h.objects)
		report.Ignored = append(report.Ignored, h.ignored...)
	}
	s.place(next)
	clear(s.checked)
	before := s.report
	s.report, s.files = report, next
	s.mu.Unlock()
	s.logDifferences(before, report)
	return next
}

// place brings the places of objects up to date with the files that will be in
// force. The caller holds s.mu.
func (s *Source) place(next map[*yamldir.File]held) {
	for f, h := range s.files {
		if _, ok := next[f]; ok {
			continue
		}
		for _, o := range h.objects {
			delete(s.places, o.key)
		}
	}
	for f, h := range next {
		if _, ok := s.files[f]; ok {
			continue
		}
		for _, o := range h.objects {
			s.places[o.key] = place(o.doc)
		}
	}
}

// logDifferences logs each complaint once, and its end.
func (s *Source) logDifferences(before, now Report) {
	for _, r := range now.Refused {
		if !slices.Contains(before.Refused, r) {
			s.log.Error("manifest refused; what was in force before stays in force",
				zap.String("file", r.File), zap.Int("line", r.Line), zap.String("object", r.Object), zap.String("reason", r.Reason))
		}
	}
	for _, r := range before.Refused {
		if !slices.ContainsFunc(now.Refused, func(other Refused) bool { return other.File == r.File }) {
			s.log.Info("manifest no longer refused", zap.String("file", r.File))
		}
	}
	if len(now.Waiting) > 0 && !slices.Equal(now.Waiting, before.Waiting) {
		s.log.Error("nothing is served yet: refused files may hold policies, and it is not known what they said before; mend or remove them",
			zap.Strings("files", now.Waiting))
	}
	for _, i := range now.Ignored {
		if !slices.Contains(before.Ignored, i) {
			s.log.Warn("object ignored: its kind is not read",
				zap.String("file", i.File), zap.Int("line", i.Line), zap.String("apiVersion", i.APIVersion), zap.String("kind", i.Kind), zap.String("name", i.Name))
		}
	}
}
