package images

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// maxArchive is the most bytes an archive of ours may have: what a node loads
// while its pods wait.
const maxArchive = 30 << 20

// Config says what a release is.
type Config struct {
	Module     string // directory of the module
	Go         string // the go command; empty means go
	Out        string // directory of the archives
	Repository string // what stands before the name of an image: docker.io/ambit
	Version    string // the tag
	Archs      []string
	Date       time.Time
	Components []Component
}

// Release compiles and writes all archives of cfg, and the SBOM of each beside
// it: NAME-ARCH.tar and NAME-ARCH.cdx.json. It says on log what it wrote.
func Release(ctx context.Context, cfg Config, log io.Writer) error {
	if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
		return err
	}
	for _, arch := range cfg.Archs {
		if err := releaseArch(ctx, cfg, arch, log); err != nil {
			return err
		}
	}
	return nil
}

// releaseArch is Release for one architecture: one call of the compiler, then
// the images.
func releaseArch(ctx context.Context, cfg Config, arch string, log io.Writer) error {
	dir, err := os.MkdirTemp(cfg.Out, ".build-"+arch+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var programs []Program
	for _, c := range cfg.Components {
		programs = append(programs, c.Programs...)
	}
	files, err := Compile(ctx, Build{cfg.Go, cfg.Module, cfg.Version, arch}, dir, programs)
	if err != nil {
		return err
	}
	for _, c := range cfg.Components {
		own := files[:len(c.Programs)]
		files = files[len(c.Programs):]
		if err := releaseImage(cfg, c, arch, own, log); err != nil {
			return fmt.Errorf("image %s for %s: %w", c.Name, arch, err)
		}
	}
	return nil
}

// releaseImage writes the archive of one component.
func releaseImage(cfg Config, c Component, arch string, files []string, log io.Writer) error {
	spec := Spec{
		Arch: arch, User: c.User, Date: cfg.Date,
		Entrypoint: []string{c.Programs[0].Path},
		Labels:     labels(c, cfg.Version),
	}
	for i, p := range c.Programs {
		spec.Files = append(spec.Files, File{Path: p.Path, Source: files[i], Mode: 0o755})
	}
	image, err := Assemble(spec)
	if err != nil {
		return err
	}
	sbom, err := SBOM(cfg.Repository+"/"+c.Name, cfg.Version, files)
	if err != nil {
		return err
	}
	named := Named{Image: image, Name: cfg.Repository + "/" + c.Name + ":" + cfg.Version, SBOM: sbom}
	base := filepath.Join(cfg.Out, c.Name+"-"+arch)
	size, err := writeArchiveFile(base+".tar", named)
	if err != nil {
		return err
	}
	if size > maxArchive {
		return fmt.Errorf("%s has %d bytes, more than %d", base+".tar", size, maxArchive)
	}
	if err := os.WriteFile(base+".cdx.json", sbom, 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(log, "%-32s %5.1f MB  %s\n%32s %s\n", base+".tar", float64(size)/1e6, named.Name, "", image.Digest())
	return err
}

// writeArchiveFile writes the archive of n to path, all of it or nothing.
func writeArchiveFile(path string, n Named) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".archive-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	err = WriteArchive(f, n)
	info, statErr := f.Stat()
	for _, e := range []error{err, statErr, f.Chmod(0o644), f.Close()} {
		if e != nil {
			return 0, e
		}
	}
	return info.Size(), os.Rename(f.Name(), path)
}

// labels say what an image is. Source: OCI image specification, "Annotations".
func labels(c Component, version string) map[string]string {
	const prefix = "org.opencontainers.image."
	return map[string]string{
		prefix + "title":       "ambit " + c.Name,
		prefix + "description": c.Description,
		prefix + "version":     version,
		prefix + "source":      "https://github.com/ambit-mesh/ambit",
		prefix + "licenses":    "Apache-2.0",
	}
}
