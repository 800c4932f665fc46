package images

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A dynamic program runs in a root that holds nothing but it and what Libraries
// names for it.
func TestLibraries(t *testing.T) {
	program, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("nft is not installed: make e2e-deps")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for chroot")
	}
	files, err := Libraries(program)
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layerTar(Spec{Files: append(files, File{Path: "/program", Source: program, Mode: 0o755})})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	untar(t, layer, root)
	chroot, err := exec.LookPath("chroot")
	if err != nil {
		t.Skip("chroot is not installed")
	}
	if out, err := exec.CommandContext(t.Context(), chroot, root, "/program", "--version").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// The same without them does not run.
	if err := os.RemoveAll(filepath.Join(root, "lib")); err != nil {
		t.Fatal(err)
	}
	if exec.CommandContext(t.Context(), chroot, root, "/program", "--version").Run() == nil {
		t.Error("the program runs without its libraries: it proves nothing")
	}
}

// A static program needs nothing, and what is no program is an error.
func TestLibrariesOfOthers(t *testing.T) {
	dir := t.TempDir()
	static, source := filepath.Join(dir, "static"), filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", static, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if files, err := Libraries(static); err != nil || len(files) > 0 {
		t.Errorf("a static program: %v, %v", files, err)
	}
	if _, err := Libraries("images_test.go"); err == nil {
		t.Error("a text was taken for a program")
	}
}

// untar writes the regular files of an archive below root.
func untar(t *testing.T, archive []byte, root string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if err != nil {
			return
		}
		at := filepath.Join(root, header.Name)
		if header.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		var content bytes.Buffer
		if _, err := content.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, content.Bytes(), header.FileInfo().Mode()); err != nil {
			t.Fatal(err)
		}
	}
}
