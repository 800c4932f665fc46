package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/ambit-mesh/ambit/internal/images"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// Names of the images that each cluster has.
const (
	PauseImage   = "localhost/ambit-lab/pause:1"
	AppImage     = "localhost/ambit-lab/app:1" // command labapp: ordinary servers and clients
	CoreDNSImage = "localhost/ambit-lab/coredns:1"
)

// makeImages puts the lab's own images together as archives in dir.
func makeImages(programs Programs, dir string) ([]string, error) {
	var archives []string
	for _, i := range []struct{ group, program, name string }{
		{groupOurs, "labpause", PauseImage},
		{groupOurs, "labapp", AppImage},
		{groupCoreDNS, "coredns", CoreDNSImage},
	} {
		image, err := images.Assemble(images.Spec{
			Arch: runtime.GOARCH, Entrypoint: []string{"/" + i.program}, Date: time.Unix(0, 0), Plain: true,
			Files: []images.File{{Path: "/" + i.program, Source: programs.path(i.group, i.program), Mode: 0o755}},
		})
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", i.name, err)
		}
		archive := filepath.Join(dir, i.program+".tar")
		if err := writeImage(archive, images.Named{Image: image, Name: i.name}); err != nil {
			return nil, fmt.Errorf("image %s: %w", i.name, err)
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

func writeImage(path string, n images.Named) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(images.WriteArchive(f, n), f.Close())
}

// loadImages brings the lab's own images and those asked for into the nodes, as soon
// as their containerd answers.
func (b *builder) loadImages(ctx context.Context, c *Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for _, n := range c.Nodes() {
		for {
			if n.Command(ctx, "ctr", "version").Run() == nil {
				break
			}
			if err := lifecycle.Sleep(ctx, pollEvery); err != nil {
				return fmt.Errorf("containerd of %s does not answer; its log is %s/var/log/containerd.log: %w", n.Name, n.Dir, err)
			}
		}
	}
	b.cfg.Progress("loading images")
	return c.Load(ctx, append(b.images, b.cfg.Images...)...)
}

// Load brings image archives (OCI, or of docker save) into every node.
func (c *Cluster) Load(ctx context.Context, archives ...string) error {
	for _, archive := range archives {
		for _, n := range c.Nodes() {
			if err := n.load(ctx, archive); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n Node) load(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := n.Command(ctx, "ctr", "--namespace", "k8s.io", "images", "import", "-")
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load %s into %s: %w\n%s", archive, n.Name, err, indent(out))
	}
	return nil
}
