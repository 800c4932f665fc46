package scenario

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/ambit-mesh/ambit/perf/report"
)

// machine says where we are.
func machine() (report.Machine, error) {
	m := report.Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return m, err
	}
	m.Kernel = "Linux " + strings.TrimSpace(string(kernel))
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, err
	}
	m.CPU = valueOf(string(cpu), "model name")
	mem, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	var kb int64
	if _, err := fmt.Sscanf(valueOf(string(mem), "MemTotal"), "%d kB", &kb); err != nil {
		return m, fmt.Errorf("/proc/meminfo: %w", err)
	}
	m.Memory = kb << 10
	return m, nil
}

// valueOf finds the first "name : value" in a file of such lines.
func valueOf(text, name string) string {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// program says which build a variant is; nil when it has none.
func program(ctx context.Context, cfg Config, variant string) (*report.Program, error) {
	path, args := filepath.Join(cfg.BinDir, "ztunnel"), []string{"--version"}
	switch variant {
	case report.None, report.OursEncrypted:
		return nil, nil
	case report.Peer:
		path, args = cfg.Ztunnel, []string{"version"}
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w: %s", variant, err, strings.TrimSpace(string(out)))
	}
	return &report.Program{Variant: variant, Version: strings.Join(strings.Fields(string(out)), " ")}, nil
}

// openFiles is how many files a proxy may have open: as many as nodes of clusters
// allow, so that a case of 10,000 connections is not one of this limit.
const openFiles = 1 << 18

// raiseOpenFiles lets the programs of the labs, which inherit it, open as many
// files as proxies of clusters may, or as many as we may ourselves.
func raiseOpenFiles() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	more := syscall.Rlimit{Cur: openFiles, Max: max(openFiles, l.Max)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil {
		return nil
	}
	l.Cur = l.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

// missing names what this run does without from its beginning; yardsticks are added
// when they are looked for.
func missing(cfg Config) []report.Missing {
	var out []report.Missing
	if cfg.Ztunnel == "" {
		out = append(out, report.Missing{Peer: "another ztunnel", Why: "none was named: --ztunnel PATH"})
	}
	if cfg.Plan.Name == quick.Name {
		out = append(out, report.Missing{Peer: "haproxy, nginx, WireGuard", Why: "the quick plan leaves them out: --plan full"})
	}
	return out
}
