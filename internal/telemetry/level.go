package telemetry

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

const (
	// traceLevel is below debug: what RUST_LOG calls trace.
	traceLevel = zapcore.DebugLevel - 1
	// offLevel is above all that is logged.
	offLevel = zapcore.FatalLevel + 1

	// maxDirectives is how many scopes a specification may name. It bounds what
	// a request to the admin server can make us hold.
	maxDirectives = 100
)

// Levels says what each scope logs, and changes at run time. Any goroutine may
// use it.
//
// A specification is a list of directives with commas between them: a level
// (off, error, warn, info, debug, trace) is for every scope that has none of
// its own; scope=level or scope:level is for that scope and those under it
// ("xds" has "xds.client" under it, and "xds::client").
type Levels struct {
	mu      sync.Mutex // for writers
	initial levelTable
	current atomic.Pointer[levelTable]
}

// levelTable is one immutable set of levels.
type levelTable struct {
	base   zapcore.Level
	scopes map[string]zapcore.Level
	lowest zapcore.Level // of all
}

// NewLevels reads the specification that is in force first, and after Reset.
// The empty one means info.
func NewLevels(spec string) (*Levels, error) {
	t, err := parseLevels(spec, levelTable{base: zapcore.InfoLevel})
	if err != nil {
		return nil, err
	}
	l := &Levels{initial: t}
	l.current.Store(&t)
	return l, nil
}

// Set applies spec on top of what is in force: scopes it does not name keep
// their level. The directive reset goes back to the start first. On error
// nothing changes.
func (l *Levels) Set(spec string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := *l.current.Load()
	if rest, ok := cutReset(spec); ok {
		from, spec = l.initial, rest
	}
	t, err := parseLevels(spec, from)
	if err != nil {
		return err
	}
	l.current.Store(&t)
	return nil
}

// Reset goes back to the levels of the start.
func (l *Levels) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current.Store(&l.initial)
}

// String returns what is in force, as a specification.
func (l *Levels) String() string {
	t := l.current.Load()
	out := []string{levelName(t.base)}
	for _, scope := range slices.Sorted(maps.Keys(t.scopes)) {
		out = append(out, scope+"="+levelName(t.scopes[scope]))
	}
	return strings.Join(out, ",")
}

// Enabled tells whether anything at level could be logged by any scope.
func (l *Levels) Enabled(level zapcore.Level) bool { return level >= l.current.Load().lowest }

// EnabledFor tells whether scope logs at level. The longest name that has a
// level counts.
func (l *Levels) EnabledFor(scope string, level zapcore.Level) bool {
	t := l.current.Load()
	if len(t.scopes) == 0 {
		return level >= t.base
	}
	for name := scope; name != ""; name = parentScope(name) {
		if own, ok := t.scopes[name]; ok {
			return level >= own
		}
	}
	return level >= t.base
}

// parentScope returns the scope above name, or "".
func parentScope(name string) string {
	return strings.TrimRight(name[:max(0, strings.LastIndexAny(name, ".:"))], ":")
}

// parseLevels reads spec on top of from.
func parseLevels(spec string, from levelTable) (levelTable, error) {
	t := levelTable{base: from.base, scopes: maps.Clone(from.scopes)}
	if t.scopes == nil {
		t.scopes = make(map[string]zapcore.Level)
	}
	for directive := range strings.SplitSeq(spec, ",") {
		directive = strings.TrimSpace(directive)
		if directive == "" {
			continue
		}
		scope, level, err := parseDirective(directive)
		if err != nil {
			return levelTable{}, fmt.Errorf("log level %q: %w", clip(directive), err)
		}
		if scope == "" {
			t.base = level
			continue
		}
		t.scopes[scope] = level
		if len(t.scopes) > maxDirectives {
			return levelTable{}, fmt.Errorf("log level %q: more than %d scopes", clip(directive), maxDirectives)
		}
	}
	t.lowest = t.base
	for _, level := range t.scopes {
		t.lowest = min(t.lowest, level)
	}
	return t, nil
}

// Errors of parseDirective.
var (
	errNoLevel    = errors.New("want LEVEL or SCOPE:LEVEL, with LEVEL one of off, error, warn, info, debug, trace")
	errScopeWords = errors.New("a scope is made of letters, digits, '_', '-', '.', and '::'")
)

// parseDirective reads LEVEL, SCOPE=LEVEL or SCOPE:LEVEL.
func parseDirective(text string) (scope string, level zapcore.Level, err error) {
	at := strings.LastIndexAny(text, "=:")
	if at < 0 {
		level, ok := levelOf(text)
		if !ok {
			return "", 0, errNoLevel
		}
		return "", level, nil
	}
	scope = text[:at]
	level, ok := levelOf(text[at+1:])
	switch {
	case !ok:
		return "", 0, errNoLevel
	case !validScope(scope):
		return "", 0, errScopeWords
	}
	return scope, level, nil
}

// validScope tells whether scope can be the name of a logger.
func validScope(scope string) bool {
	for part := range strings.SplitSeq(strings.ReplaceAll(scope, "::", "."), ".") {
		if part == "" || strings.ContainsFunc(part, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
		}) {
			return false
		}
	}
	return true
}

// cutReset reports whether spec begins with the directive reset, and returns
// what follows.
func cutReset(spec string) (rest string, ok bool) {
	first, rest, _ := strings.Cut(spec, ",")
	if strings.TrimSpace(first) != "reset" {
		return spec, false
	}
	return rest, true
}

// levelOf reads the name of a level.
func levelOf(name string) (zapcore.Level, bool) {
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "off":
		return offLevel, true
	case "error":
		return zapcore.ErrorLevel, true
	case "warn", "warning":
		return zapcore.WarnLevel, true
	case "info":
		return zapcore.InfoLevel, true
	case "debug":
		return zapcore.DebugLevel, true
	case "trace":
		return traceLevel, true
	}
	return 0, false
}

// levelName is the name of level in lines and specifications.
func levelName(level zapcore.Level) string {
	switch {
	case level == offLevel:
		return "off"
	case level <= traceLevel:
		return "trace"
	}
	return level.String()
}

// clip shortens what a user wrote for an error text.
func clip(text string) string {
	const most = 60
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
