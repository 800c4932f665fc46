package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// Build says how programs are compiled.
type Build struct {
	Go      string // the go command; empty means go
	Module  string // the directory of the module
	Version string // goes into main.version
	Arch    string // GOARCH
}

// Compile compiles programs into dir and returns the files, in their order.
func Compile(ctx context.Context, b Build, dir string, programs []Program) ([]string, error) {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace", "-ldflags", "-s -w -X main.version=" + b.Version, "-o", dir + string(filepath.Separator)}
	var files []string
	for _, p := range programs {
		args = append(args, p.Package)
		files = append(files, filepath.Join(dir, path.Base(p.Package)))
	}
	command := b.Go
	if command == "" {
		command = "go"
	}
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = b.Module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+b.Arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile for linux/%s: %w\n%s", b.Arch, err, out)
	}
	return files, nil
}
