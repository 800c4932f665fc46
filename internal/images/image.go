package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec says what an image is to be.
type Spec struct {
	Arch       string
	Entrypoint []string
	Env        []string
	User       string // uid:gid; empty means 0:0
	Labels     map[string]string
	Date       time.Time // of the image and all that is in it
	Files      []File
	// Plain leaves the layer as it is: for an image that is loaded where it was made.
	// Compressing costs more than it saves there.
	Plain bool
}

// File is a file of an image.
type File struct {
	Path   string // in the image, absolute
	Source string // the file that is read
	Mode   os.FileMode
}

// Image is an image in memory. It never changes.
type Image struct {
	blobs    []blob // config and layer
	manifest blob
	platform v1.Platform
	date     time.Time
}

// blob is a piece of content with its description.
type blob struct {
	descriptor v1.Descriptor
	content    []byte
}

// newBlob describes content.
func newBlob(kind types.MediaType, content []byte) blob {
	return blob{v1.Descriptor{MediaType: kind, Size: int64(len(content)), Digest: digestOf(content)}, content}
}

// digestOf is the digest by which content is addressed.
func digestOf(content []byte) v1.Hash {
	sum := sha256.Sum256(content)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// Digest names the image in registries.
func (i *Image) Digest() string { return i.manifest.descriptor.Digest.String() }

// Assemble puts the files of s into an image of one layer.
func Assemble(s Spec) (*Image, error) {
	uncompressed, err := layerTar(s)
	if err != nil {
		return nil, err
	}
	layer := newBlob(types.OCIUncompressedLayer, uncompressed)
	if !s.Plain {
		compressed, err := compress(uncompressed)
		if err != nil {
			return nil, err
		}
		layer = newBlob(types.OCILayer, compressed)
	}
	platform := v1.Platform{OS: "linux", Architecture: s.Arch}
	config, err := json.Marshal(&v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture,
		Created: v1.Time{Time: s.Date.UTC()},
		Config:  v1.Config{Entrypoint: s.Entrypoint, Env: s.Env, User: s.User, Labels: s.Labels, WorkingDir: "/"},
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{digestOf(uncompressed)}},
		History: []v1.History{{Created: v1.Time{Time: s.Date.UTC()}, CreatedBy: "ambit images"}},
	})
	if err != nil {
		return nil, err
	}
	configBlob := newBlob(types.OCIConfigJSON, config)
	manifest, err := json.Marshal(&v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: configBlob.descriptor, Layers: []v1.Descriptor{layer.descriptor},
		Annotations: s.Labels,
	})
	if err != nil {
		return nil, err
	}
	return &Image{
		blobs:    []blob{configBlob, layer},
		manifest: newBlob(types.OCIManifestSchema1, manifest),
		platform: platform,
		date:     s.Date.UTC(),
	}, nil
}

// layerTar writes the files of s, and the directories they lie in, as a tar.
func layerTar(s Spec) ([]byte, error) {
	files := map[string]File{}
	for _, f := range s.Files {
		clean := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
		if _, twice := files[clean]; clean == "" || twice {
			return nil, fmt.Errorf("file %q of the image: empty, or there twice", f.Path)
		}
		files[clean] = f
	}
	names := map[string]bool{}
	for name := range files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			names[dir+"/"] = true
		}
		names[name] = true
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		header := tar.Header{Name: name, ModTime: s.Date.UTC(), Format: tar.FormatPAX, Typeflag: tar.TypeDir, Mode: 0o755}
		if strings.HasSuffix(name, "/") {
			if err := w.WriteHeader(&header); err != nil {
				return nil, err
			}
			continue
		}
		f := files[name]
		header.Typeflag, header.Mode = tar.TypeReg, int64(f.Mode.Perm())
		if err := writeFile(w, header, f.Source); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// writeFile copies the file at source into w under header.
func writeFile(w *tar.Writer, header tar.Header, source string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header.Size = info.Size()
	if err := w.WriteHeader(&header); err != nil {
		return fmt.Errorf("layer: %s: %w", header.Name, err)
	}
	if _, err := io.Copy(w, f); err != nil {
		return fmt.Errorf("layer: %s: %w", header.Name, err)
	}
	return nil
}

// compress is gzip without a name and without a time.
func compress(content []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
