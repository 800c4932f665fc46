package manifests

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
)

// all: is needed, because of the file whose name begins with an underscore.
//
//go:embed all:ambit
var chart embed.FS

// definitions are CustomResourceDefinitions in YAML, compressed. See gencrds.
//
//go:embed crds.yaml.gz
var definitions []byte

//go:generate go run ./gencrds -o crds.yaml.gz

// File is a file of the chart.
type File struct {
	Name string // within the chart: templates/ztunnel.yaml
	Data []byte
}

// versionLine finds the lines of Chart.yaml that name a version.
var versionLine = regexp.MustCompile(`(?m)^(version|appVersion): .*$`)

// Chart returns the files of the chart, as the release called version: what git
// describes (v1.2.3, v1.2.3-4-gabcdef, abcdef-dirty), or dev.
func Chart(version string) ([]File, error) {
	var files []File
	err := fs.WalkDir(chart, "ambit", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := chart.ReadFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, "ambit/")
		if name == "Chart.yaml" {
			data = versionLine.ReplaceAllFunc(data, func(line []byte) []byte {
				key, _, _ := bytes.Cut(line, []byte(":"))
				value := version
				if string(key) == "version" {
					value = SemVer(version)
				}
				return fmt.Appendf(nil, "%s: %q", key, value)
			})
		}
		files = append(files, File{name, data})
		return nil
	})
	return files, err
}

// semantic is a version of the kind that Helm wants, with or without a v.
// Source: Semantic Versioning 2.0.0, section 2 and 9.
var semantic = regexp.MustCompile(`^v?((0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?)$`)

// notIdentifier is what must not stand in a pre-release.
var notIdentifier = regexp.MustCompile(`[^0-9A-Za-z-]+`)

// SemVer makes version one of the kind that Helm wants: what is not one becomes a
// pre-release of 0.0.0.
func SemVer(version string) string {
	if m := semantic.FindStringSubmatch(version); m != nil {
		return m[1]
	}
	// A letter in front: an identifier of digits only must not begin with 0.
	return "0.0.0-g" + notIdentifier.ReplaceAllString(version, "-")
}

// Definitions returns the CustomResourceDefinitions of the kinds that ambit
// reads, each a YAML document.
func Definitions() ([][]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(definitions))
	if err != nil {
		return nil, fmt.Errorf("embedded definitions: %w", err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("embedded definitions: %w", err)
	}
	var docs [][]byte
	for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
		docs = append(docs, append(doc, '\n'))
	}
	return docs, nil
}
