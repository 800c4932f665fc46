package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/images"
)

// Programs of Istio, by the names that its build gives them.
const (
	programIstiod  = "pilot-discovery"
	programZtunnel = "ztunnel"
	programAgent   = "install-cni"
	programPlugin  = "istio-cni"
	programCtl     = "istioctl"
)

// Peers are Istio's programs.
type Peers struct{ dir string }

// FindPeers looks for the programs in a directory. The error names all that are missing.
func FindPeers(dir string) (Peers, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Peers{}, err
	}
	var missing []string
	for _, name := range []string{programIstiod, programZtunnel, programAgent, programPlugin, programCtl} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return Peers{}, fmt.Errorf("no programs %s in %s: put there what was built of Istio elsewhere (go build ./pilot/cmd/pilot-discovery and so on; cargo build)",
			strings.Join(missing, ", "), dir)
	}
	return Peers{dir}, nil
}

func (p Peers) program(name string) string { return filepath.Join(p.dir, name) }

// Ctl is a call of istioctl on a cluster.
func (p Peers) Ctl(ctx context.Context, c *cluster.Cluster, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.program(programCtl), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	return cmd
}

// Images of the peers, as their manifests name them.
const (
	imageIstiod  = "localhost/ambit-interop/istiod:1"
	imageZtunnel = "localhost/ambit-interop/ztunnel:1"
	imageAgent   = "localhost/ambit-interop/istio-cni:1"
)

// nft is what istio-cni calls for its rules.
const nft = "nft"

// Load packs the peers into images and brings them into the nodes. Programs that are
// not static get the libraries of this machine.
func (p Peers) Load(ctx context.Context, c *cluster.Cluster) error {
	tool, err := exec.LookPath(nft)
	if err != nil {
		return errors.New("nft is not installed: make e2e-deps")
	}
	dir, err := os.MkdirTemp("", "ambit-interop-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, i := range []struct {
		name  string
		files []images.File // the first is what the container runs
	}{
		{imageIstiod, []images.File{{Path: "/usr/local/bin/pilot-discovery", Source: p.program(programIstiod)}}},
		{imageZtunnel, []images.File{{Path: "/usr/local/bin/ztunnel", Source: p.program(programZtunnel)}}},
		{imageAgent, []images.File{
			{Path: "/usr/local/bin/install-cni", Source: p.program(programAgent)},
			{Path: "/opt/cni/bin/istio-cni", Source: p.program(programPlugin)},
			{Path: "/usr/sbin/nft", Source: tool},
		}},
	} {
		archive := filepath.Join(dir, strings.ReplaceAll(filepath.Base(i.name), ":", "-")+".tar")
		if err := pack(archive, i.name, i.files); err != nil {
			return fmt.Errorf("image %s: %w", i.name, err)
		}
		if err := c.Load(ctx, archive); err != nil {
			return err
		}
	}
	return nil
}

// pack writes an image of programs, with the libraries that they need.
func pack(archive, name string, programs []images.File) error {
	var files []images.File
	have := map[string]bool{}
	for _, p := range programs {
		p.Mode = 0o755
		files = append(files, p)
		libraries, err := images.Libraries(p.Source)
		if err != nil {
			return err
		}
		for _, l := range libraries {
			if !have[l.Path] {
				have[l.Path] = true
				files = append(files, l)
			}
		}
	}
	image, err := images.Assemble(images.Spec{
		Arch: runtime.GOARCH, Entrypoint: []string{programs[0].Path}, Date: time.Unix(0, 0), Files: files, Plain: true,
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	})
	if err != nil {
		return err
	}
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	return errors.Join(images.WriteArchive(f, images.Named{Image: image, Name: name}), f.Close())
}
