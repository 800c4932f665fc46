package install

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"time"

	"github.com/ambit-mesh/ambit/manifests"
)

// PackChart writes the chart as helm takes it: with the definitions, which helm
// too creates only where they are missing. The same version gives the same bytes.
func PackChart(w io.Writer, version string, definitions bool) error {
	files, err := manifests.Chart(version)
	if err != nil {
		return err
	}
	if definitions {
		docs, err := manifests.Definitions()
		if err != nil {
			return err
		}
		for i, doc := range docs {
			files = append(files, manifests.File{Name: fmt.Sprintf("crds/%02d.yaml", i), Data: doc})
		}
	}
	compressed := gzip.NewWriter(w)
	archive := tar.NewWriter(compressed)
	for _, f := range files {
		header := &tar.Header{Name: "ambit/" + f.Name, Mode: 0o644, Size: int64(len(f.Data)), ModTime: time.Unix(0, 0).UTC(), Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(f.Data); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return compressed.Close()
}
