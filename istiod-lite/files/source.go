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
	tell  sync.Mutex
	told  map[model.Key]decoded // what the receiver knows; guarded by tell
	begun bool                  // the receiver has been told something, be it that nothing is there; guarded by tell

	// mu guards the fields below. Lock order: tell, then the reader's, then mu.
	mu      sync.Mutex
	decoded map[*yamldir.File][]decoded // by Check, so that nothing is decoded twice
	report  Report
	places  map[model.Key]string
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
		decoded: map[*yamldir.File][]decoded{},
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
	objects, err := decodeFile(f)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decoded[f] = objects
	return nil
}

// sync reads what changed and tells fn, if there is anything to tell.
func (s *Source) sync(ctx context.Context, fn func([]model.Event)) error {
	s.tell.Lock()
	defer s.tell.Unlock()
	set, err := s.reader.Read(ctx)
	objects := s.objects(set)
	var waiting []string
	if !s.begun {
		waiting = mayHoldPolicies(set)
	}
	s.publish(set, objects, waiting)
	if len(waiting) > 0 || !s.begun && err != nil {
		return err
	}
	if events := s.differences(objects); !s.begun || len(events) > 0 {
		s.begun = true
		fn(events)
	}
	return err
}

// restricting are words of manifests that keep connections out.
var restricting = [][]byte{
	[]byte("AuthorizationPolicy"), []byte("PeerAuthentication"), []byte("istio.io/use-waypoint"),
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

// objects are all that are in force.
func (s *Source) objects(set yamldir.Set) map[model.Key]decoded {
	s.mu.Lock()
	defer s.mu.Unlock()
	objects := map[model.Key]decoded{}
	kept := map[*yamldir.File][]decoded{}
	for _, f := range set.Files {
		all, ok := s.decoded[f]
		if !ok {
			all, _ = decodeFile(f) // passed once, when it was refused for a conflict
		}
		kept[f] = all
		for _, o := range all {
			objects[o.key] = o
		}
	}
	s.decoded = kept
	return objects
}

// differences are the events that lead from what was told to objects. The order
// is that of the keys.
func (s *Source) differences(objects map[model.Key]decoded) []model.Event {
	var events []model.Event
	for key := range s.told {
		if _, ok := objects[key]; !ok {
			events = append(events, model.Event{Key: key})
		}
	}
	for key, now := range objects {
		if old, ok := s.told[key]; ok && (old.doc == now.doc || bytes.Equal(old.doc.JSON, now.doc.JSON)) {
			continue
		}
		events = append(events, model.Event{Key: key, Object: now.object})
	}
	s.told = objects
	slices.SortFunc(events, func(a, b model.Event) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	return events
}

// publish updates the report and logs what is new in it.
func (s *Source) publish(set yamldir.Set, objects map[model.Key]decoded, waiting []string) {
	report := Report{Dir: s.dir, Files: len(set.Files), Objects: len(objects), Refused: []Refused{}, Ignored: []Ignored{}, Waiting: waiting}
	for _, e := range set.Refused {
		report.Refused = append(report.Refused, Refused{File: e.File, Line: e.Line, Object: e.Object, Reason: e.Err.Error()})
	}
	for _, f := range set.Files {
		for _, d := range f.Documents {
			if _, known, _ := formatOf(d); !known {
				report.Ignored = append(report.Ignored, Ignored{File: d.File, Line: d.Line, APIVersion: d.APIVersion, Kind: d.Kind, Name: d.Name})
			}
		}
	}
	places := make(map[model.Key]string, len(objects))
	for key, o := range objects {
		places[key] = place(o.doc)
	}
	s.mu.Lock()
	before := s.report
	s.report, s.places = report, places
	s.mu.Unlock()
	s.logDifferences(before, report)
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
