package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// toolsDir holds the modules that name programs of others.
const toolsDir = "e2e/cluster/tools"

// program groups are built together out of one module and live in one directory.
type group struct {
	name     string
	module   string // directory in the checkout
	versions string // module path whose version goes into component-base; empty means none
	packages []string
	// ours is set for programs of this module: they change, so they are built each time.
	ours bool
}

const (
	groupKubernetes = "kubernetes"
	groupEtcd       = "etcd"
	groupCoreDNS    = "coredns"
	groupOurs       = "own"
)

// groups lists all programs of a cluster that are built.
func groups() []group {
	const k8s, cni = "k8s.io/kubernetes/cmd/", "github.com/containernetworking/plugins/plugins/"
	return []group{
		{name: groupOurs, module: ".", ours: true, packages: []string{
			"./e2e/cluster/machine/cmd/labnode", "./e2e/cluster/netpol/cmd/labnetpol",
			"./e2e/cluster/cmd/labpause", "./e2e/cluster/cmd/labapp",
			cni + "main/ptp", cni + "main/bridge", cni + "main/loopback", cni + "ipam/host-local",
		}},
		{name: groupEtcd, module: toolsDir + "/etcd", packages: []string{"go.etcd.io/etcd/server/v3"}},
		{name: groupKubernetes, module: toolsDir, versions: "k8s.io/kubernetes", packages: []string{
			k8s + "kube-apiserver", k8s + "kube-controller-manager", k8s + "kube-scheduler",
			k8s + "kubelet", k8s + "kube-proxy", k8s + "kubectl",
		}},
		{name: groupCoreDNS, module: toolsDir + "/coredns", packages: []string{"github.com/coredns/coredns"}},
	}
}

// binary is what a package's program is called.
func binary(pkg string) string {
	if pkg == "go.etcd.io/etcd/server/v3" {
		return "etcd"
	}
	return path.Base(pkg)
}

// Programs says where the programs of a cluster are, by group.
type Programs struct {
	dirs map[string]string
}

// path of a program.
func (p Programs) path(group, name string) string { return filepath.Join(p.dirs[group], name) }

// Kubectl is the path of kubectl.
func (p Programs) Kubectl() string { return p.path(groupKubernetes, "kubectl") }

// Build makes the programs of a cluster and puts them into the cache. Those of others
// are built once for each set of versions, which takes minutes.
func Build(ctx context.Context, cfg Config) (Programs, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Programs{}, err
	}
	programs := Programs{dirs: map[string]string{}}
	for _, g := range groups() {
		dir, err := g.build(ctx, cfg)
		if err != nil {
			return programs, err
		}
		programs.dirs[g.name] = dir
	}
	return programs, nil
}

// BuildHelm makes Helm, which no cluster needs and a case does, and returns its path.
// That takes minutes, once for each version.
func BuildHelm(ctx context.Context, cfg Config) (string, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return "", err
	}
	g := group{name: "helm", module: toolsDir + "/helm", packages: []string{"helm.sh/helm/v4/cmd/helm"}}
	dir, err := g.build(ctx, cfg)
	return filepath.Join(dir, "helm"), err
}

// build makes the group's programs unless they are there.
func (g group) build(ctx context.Context, cfg Config) (string, error) {
	dir := filepath.Join(cfg.Cache, g.name)
	if !g.ours {
		sum, err := g.fingerprint(cfg.Source)
		if err != nil {
			return "", err
		}
		dir += "-" + sum
		if g.complete(dir) {
			return dir, nil
		}
		cfg.Progress("building " + g.name + " from its module: minutes, the first time")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cfg.Cache, ".build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	start := time.Now()
	if err := g.compile(ctx, cfg, tmp); err != nil {
		return "", err
	}
	for _, pkg := range g.packages {
		// A rename leaves programs that run as they are.
		if err := os.Rename(filepath.Join(tmp, path.Base(compiledName(pkg))), filepath.Join(dir, binary(pkg))); err != nil {
			return "", err
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		cfg.Progress(fmt.Sprintf("built %s in %.0f s", g.name, took.Seconds()))
	}
	return dir, nil
}

// compiledName is what `go build -o DIR/` calls a package's program.
func compiledName(pkg string) string {
	if base := path.Base(pkg); !versionSuffix.MatchString(base) {
		return base
	}
	return path.Base(path.Dir(pkg))
}

var versionSuffix = regexp.MustCompile(`^v[0-9]+$`)

// complete reports whether all programs are there.
func (g group) complete(dir string) bool {
	for _, pkg := range g.packages {
		if _, err := os.Stat(filepath.Join(dir, binary(pkg))); err != nil {
			return false
		}
	}
	return true
}

// fingerprint changes when other programs would come out.
func (g group) fingerprint(source string) (string, error) {
	sum := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		raw, err := os.ReadFile(filepath.Join(source, g.module, name))
		if err != nil {
			return "", err
		}
		sum.Write(raw)
	}
	return hex.EncodeToString(sum.Sum(nil)[:4]), nil
}

// compile runs go build.
func (g group) compile(ctx context.Context, cfg Config, into string) error {
	flags := "-s -w"
	if g.versions != "" {
		version, err := g.version(cfg.Source)
		if err != nil {
			return err
		}
		major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
		minor, _, _ := strings.Cut(rest, ".")
		const at = " -X k8s.io/component-base/version."
		flags += at + "gitVersion=" + version + at + "gitMajor=" + major + at + "gitMinor=" + minor
	}
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", into + "/"}, g.packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(cfg.Source, g.module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("go is not in PATH: a lab builds Kubernetes from source; install Go (see go.mod for the version)")
	}
	if err != nil {
		return fmt.Errorf("build %s in %s: %w\n%s", g.name, g.module, err, bytes.TrimSpace(out))
	}
	return nil
}

// version reads out of the group's go.mod which version of its main module it names.
func (g group) version(source string) (string, error) {
	file := filepath.Join(source, g.module, "go.mod")
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == g.versions && strings.HasPrefix(fields[1], "v") {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("%s does not require %s", file, g.versions)
}

// packageOf says which Debian package a program of the distribution comes from.
var packageOf = map[string]string{
	"containerd": "containerd", "containerd-shim-runc-v2": "containerd", "ctr": "containerd", "runc": "runc",
	"nft": "nftables", "nsenter": "util-linux", "mount": "mount",
}

// preflight says all that is missing on this machine, each with its remedy.
func preflight() error {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root (sudo)")
	}
	packages := map[string]bool{}
	for program, pkg := range packageOf {
		if _, err := exec.LookPath(program); err != nil && !packages[pkg] {
			packages[pkg] = true
			missing = append(missing, fmt.Sprintf("%s (apt-get install %s, or make e2e-deps)", program, pkg))
		}
	}
	if _, err := os.Stat("/sys/fs/cgroup"); errors.Is(err, fs.ErrNotExist) {
		missing = append(missing, "cgroups mounted at /sys/fs/cgroup")
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("missing: %s", strings.Join(missing, "; "))
}
