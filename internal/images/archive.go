package images

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations by which an archive tells the name of an image: the first is read
// by containerd, the second by whatever follows the OCI layout.
const (
	annotationName = "io.containerd.image.name"
	annotationRef  = "org.opencontainers.image.ref.name"
)

// Types of what refers to an image. Source: OCI image specification 1.1,
// "Guidelines for artifact usage".
const (
	typeEmpty     = types.MediaType("application/vnd.oci.empty.v1+json")
	typeCycloneDX = types.MediaType("application/vnd.cyclonedx+json")
)

// Named is an image under a name.
type Named struct {
	Image *Image
	Name  string // with registry and tag: docker.io/ambit/ztunnel:v1
	SBOM  []byte // CycloneDX in JSON, attached as what refers to the image; may be empty
}

// legacyManifest is the table of contents of a docker-save archive, which crane
// and older engines read.
type legacyManifest struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// WriteArchive writes n as a tar that is an OCI layout and a docker-save archive.
// Source: OCI image specification, "Image Layout".
func WriteArchive(w io.Writer, n Named) error {
	blobs := append(slices.Clone(n.Image.blobs), n.Image.manifest)
	image := n.Image.manifest.descriptor
	image.Platform = &n.Image.platform
	image.Annotations = map[string]string{annotationName: n.Name, annotationRef: tagOf(n.Name)}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{image}}
	if len(n.SBOM) > 0 {
		referrer, err := refer(n.Image, n.SBOM)
		if err != nil {
			return err
		}
		blobs = append(blobs, referrer...)
		last := referrer[len(referrer)-1].descriptor
		last.ArtifactType = string(typeCycloneDX)
		index.Manifests = append(index.Manifests, last)
	}
	legacy := legacyManifest{
		Config:   blobPath(n.Image.blobs[0]),
		RepoTags: []string{n.Name},
		Layers:   []string{blobPath(n.Image.blobs[1])},
	}
	tw := tar.NewWriter(w)
	for _, part := range []struct {
		name string
		what any
	}{
		{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}},
		{"index.json", index},
		{"manifest.json", []legacyManifest{legacy}},
	} {
		text, err := json.Marshal(part.what)
		if err != nil {
			return err
		}
		if err := writePart(tw, n.Image, part.name, text); err != nil {
			return err
		}
	}
	slices.SortFunc(blobs, func(a, b blob) int { return strings.Compare(blobPath(a), blobPath(b)) })
	for _, b := range blobs {
		if err := writePart(tw, n.Image, blobPath(b), b.content); err != nil {
			return err
		}
	}
	return tw.Close()
}

// refer makes the manifest that says: this SBOM belongs to that image. It comes
// last.
func refer(image *Image, sbom []byte) ([]blob, error) {
	empty, layer := newBlob(typeEmpty, []byte("{}")), newBlob(typeCycloneDX, sbom)
	subject := image.manifest.descriptor
	manifest, err := json.Marshal(&v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: string(typeCycloneDX),
		Config: empty.descriptor, Layers: []v1.Descriptor{layer.descriptor}, Subject: &subject,
	})
	if err != nil {
		return nil, err
	}
	return []blob{empty, layer, newBlob(types.OCIManifestSchema1, manifest)}, nil
}

// writePart writes one file of the archive.
func writePart(w *tar.Writer, image *Image, name string, content []byte) error {
	header := tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: image.date, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if err := w.WriteHeader(&header); err != nil {
		return fmt.Errorf("archive: %s: %w", name, err)
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("archive: %s: %w", name, err)
	}
	return nil
}

// blobPath is where b lies in the layout.
func blobPath(b blob) string {
	return "blobs/" + b.descriptor.Digest.Algorithm + "/" + b.descriptor.Digest.Hex
}

// tagOf is the tag of a name, or latest.
func tagOf(name string) string {
	last := name[strings.LastIndex(name, "/")+1:]
	if _, tag, ok := strings.Cut(last, ":"); ok {
		return tag
	}
	return "latest"
}
