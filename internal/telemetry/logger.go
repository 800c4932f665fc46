package telemetry

import (
	"fmt"
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// LogConfig tunes a [Logger].
type LogConfig struct {
	// JSON writes one object per line instead of columns.
	JSON bool
	// Spec is which scope logs what, as [Levels] says. Empty means info.
	Spec string
}

// Logger writes the lines of one process and knows what each scope logs.
type Logger struct {
	zap    *zap.Logger
	levels *Levels
}

// NewLogger makes a logger that writes each line to out with one Write. Writes
// do not overlap.
func NewLogger(cfg LogConfig, out io.Writer) (*Logger, error) {
	levels, err := NewLevels(cfg.Spec)
	if err != nil {
		return nil, err
	}
	enc := newPlainEncoder()
	if cfg.JSON {
		enc = newJSONEncoder()
	}
	core := &scopedCore{
		Core:   zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(out)), allLevels{}),
		levels: levels,
	}
	return &Logger{zap: zap.New(core), levels: levels}, nil
}

// ParseLogFormat reads LOG_FORMAT: "", "plain" or "json".
func ParseLogFormat(format string) (json bool, err error) {
	switch format {
	case "", "plain":
		return false, nil
	case "json":
		return true, nil
	}
	return false, fmt.Errorf("LOG_FORMAT is %q, want plain or json", format)
}

// Zap returns the root logger; its scope is empty. Give each part its own by
// Named.
func (l *Logger) Zap() *zap.Logger { return l.zap }

// Levels returns what each scope logs.
func (l *Logger) Levels() *Levels { return l.levels }

// scopedCore asks Levels about each entry.
type scopedCore struct {
	zapcore.Core
	levels *Levels
}

// Enabled is asked first, before the scope is looked at.
func (c *scopedCore) Enabled(level zapcore.Level) bool { return c.levels.Enabled(level) }

// With returns a core that adds fields to each entry.
func (c *scopedCore) With(fields []zapcore.Field) zapcore.Core {
	return &scopedCore{Core: c.Core.With(fields), levels: c.levels}
}

// Check adds the core to ce when the scope of the entry logs at its level.
func (c *scopedCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.levels.EnabledFor(e.LoggerName, e.Level) {
		return ce
	}
	return ce.AddCore(e, c)
}

// allLevels lets everything through: scopedCore has decided.
type allLevels struct{}

// Enabled returns true.
func (allLevels) Enabled(zapcore.Level) bool { return true }
