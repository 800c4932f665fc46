package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// date is the date of all images of these tests.
var date = time.Unix(1_700_000_000, 0)

// release builds one small image of a program of ours and returns the directory
// of its files.
func release(t *testing.T, c Component) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Module: root, Out: t.TempDir(), Repository: "registry.test/ambit", Version: "v1.2.3",
		Archs: []string{"amd64"}, Date: date, Components: []Component{c},
	}
	if err := Release(t.Context(), cfg, t.Output()); err != nil {
		t.Fatal(err)
	}
	return cfg.Out
}

// small is an image of a program of ours that needs little of the standard library and of
// other modules: it is built from nothing, twice.
func small() Component {
	return Component{Name: "small", User: nobody, Programs: []Program{{"./e2e/cluster/machine/cmd/labnode", "/opt/bin/labnode"}}}
}

// unpack writes the files of an archive below a new directory.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(header.Name))
		content, err := io.ReadAll(r)
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// The same sources give the same bytes; both readers of the archive accept it;
// the program in it is the one that was compiled.
func TestRelease(t *testing.T) {
	first, second := release(t, small()), release(t, small())
	for _, name := range []string{"small-amd64.tar", "small-amd64.cdx.json"} {
		a, errA := os.ReadFile(filepath.Join(first, name))
		b, errB := os.ReadFile(filepath.Join(second, name))
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two builds of the same sources differ", name)
		}
	}

	archive := filepath.Join(first, "small-amd64.tar")
	legacy, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatalf("as a docker-save archive: %v", err)
	}
	index, err := layout.ImageIndexFromPath(unpack(t, archive))
	if err != nil {
		t.Fatalf("as an OCI layout: %v", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	for reader, img := range map[string]v1.Image{"docker": legacy, "OCI": image} {
		if err := validate.Image(img); err != nil {
			t.Errorf("%s: %v", reader, err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != nobody || !slices.Equal(config.Config.Entrypoint, []string{"/opt/bin/labnode"}) || config.Config.WorkingDir != "/" {
		t.Errorf("config = %+v", config.Config)
	}
	if got := config.Config.Labels["org.opencontainers.image.version"]; got != "v1.2.3" {
		t.Errorf("version label = %q", got)
	}
	if got := manifest.Manifests[0].Annotations[annotationName]; got != "registry.test/ambit/small:v1.2.3" {
		t.Errorf("containerd would call it %q", got)
	}
	checkReferrer(t, index, manifest)
}

// checkReferrer checks that the second manifest says what the first is made of.
func checkReferrer(t *testing.T, index v1.ImageIndex, manifest *v1.IndexManifest) {
	t.Helper()
	if len(manifest.Manifests) != 2 {
		t.Fatalf("%d manifests in the archive, want the image and its SBOM", len(manifest.Manifests))
	}
	referrer, err := index.Image(manifest.Manifests[1].Digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := referrer.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject == nil || m.Subject.Digest != manifest.Manifests[0].Digest || m.ArtifactType != string(typeCycloneDX) {
		t.Errorf("referrer = %+v", m)
	}
	layers, err := referrer.Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(content, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range *bom.Components {
		names = append(names, c.Name)
	}
	for _, want := range []string{"labnode", "stdlib", "golang.org/x/sys"} {
		if !slices.Contains(names, want) {
			t.Errorf("the SBOM does not name %s: %v", want, names)
		}
	}
}

// assemble makes an image of files with these contents.
func assemble(t *testing.T, contents map[string]string) *Image {
	t.Helper()
	spec := Spec{Arch: "arm64", Date: date}
	for path, content := range contents {
		source := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(source, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		spec.Files = append(spec.Files, File{Path: path, Source: source, Mode: 0o755})
	}
	image, err := Assemble(spec)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestImageDependsOnContentOnly(t *testing.T) {
	contents := map[string]string{"/a/b/c": "1", "/a/d": "2", "/e": "3"}
	want := assemble(t, contents).Digest()
	for range 5 { // map order differs
		if got := assemble(t, contents).Digest(); got != want {
			t.Fatalf("digest %s, then %s", want, got)
		}
	}
	contents["/e"] = "4"
	if got := assemble(t, contents).Digest(); got == want {
		t.Error("another content has the same digest")
	}
}

func TestLayerHoldsTheDirectories(t *testing.T) {
	source := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(source, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	content, err := layerTar(Spec{Date: date, Files: []File{{"/opt/cni/bin/p", source, 0o755}, {"q", source, 0o644}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !header.ModTime.Equal(date) || header.Uid != 0 {
			t.Errorf("%s: time %v, uid %d", header.Name, header.ModTime, header.Uid)
		}
		got = append(got, header.Name)
	}
	if want := []string{"opt/", "opt/cni/", "opt/cni/bin/", "opt/cni/bin/p", "q"}; !slices.Equal(got, want) {
		t.Errorf("layer = %v, want %v", got, want)
	}
}

func TestRefused(t *testing.T) {
	tests := []struct {
		name  string
		files []File
		want  string
	}{
		{"the same path twice", []File{{"/a", "image.go", 0o644}, {"a", "image.go", 0o644}}, "twice"},
		{"no path", []File{{"/", "image.go", 0o644}}, "empty"},
		{"a file that is not there", []File{{"/a", "nowhere", 0o644}}, "nowhere"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Assemble(Spec{Files: tt.files}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := SBOM("n", "v", []string{"image.go"}); err == nil || !strings.Contains(err.Error(), "image.go") {
		t.Errorf("SBOM of what is no program: %v", err)
	}
}

func TestTagOf(t *testing.T) {
	for name, want := range map[string]string{"a/b:c": "c", "host:5000/a": "latest", "host:5000/a:v1": "v1", "a": "latest"} {
		if got := tagOf(name); got != want {
			t.Errorf("tagOf(%q) = %q, want %q", name, got, want)
		}
	}
}

// A release of ours names programs that are there, and runs as root only where
// its table says so.
func TestComponents(t *testing.T) {
	for _, c := range Components() {
		for _, p := range c.Programs {
			if _, err := os.Stat(filepath.Join("../..", p.Package, "main.go")); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
		if root := strings.HasPrefix(c.User, "0:"); root != (c.Name == "ztunnel" || c.Name == "cni") {
			t.Errorf("%s runs as %s", c.Name, c.User)
		}
		if text, err := json.Marshal(labels(c, "v")); err != nil || !strings.Contains(string(text), c.Description) {
			t.Errorf("labels of %s: %s, %v", c.Name, text, err)
		}
	}
}
