// Command gencrds collects the CustomResourceDefinitions of the kinds that ambit
// reads from the Go modules in which their projects publish them, in the versions
// that go.mod names. They are under the Apache License 2.0, as ambit is. What no
// module publishes was written for ambit and is in manifests/definitions.
package main

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// source is a module that publishes definitions.
type source struct {
	module string
	files  string   // a pattern within the module
	names  []string // of the definitions that are taken
}

// sources are the definitions that an installation needs: the kinds that
// istiod-lite reads, and those that they refer to.
func sources() []source {
	return []source{
		{
			module: "istio.io/api", files: "kubernetes/customresourcedefinitions.gen.yaml",
			names: []string{
				"authorizationpolicies.security.istio.io", "peerauthentications.security.istio.io", "requestauthentications.security.istio.io",
				"serviceentries.networking.istio.io", "workloadentries.networking.istio.io",
				"virtualservices.networking.istio.io", "destinationrules.networking.istio.io",
			},
		},
		{
			module: "sigs.k8s.io/gateway-api", files: "config/crd/standard/gateway.networking.k8s.io_*.yaml",
			names: []string{
				"gatewayclasses.gateway.networking.k8s.io", "gateways.gateway.networking.k8s.io",
				"httproutes.gateway.networking.k8s.io", "grpcroutes.gateway.networking.k8s.io",
				"tlsroutes.gateway.networking.k8s.io", "tcproutes.gateway.networking.k8s.io",
				"referencegrants.gateway.networking.k8s.io",
			},
		},
		{
			module: "github.com/ambit-mesh/ambit", files: "manifests/definitions/*.yaml",
			names: []string{"serviceprofiles.linkerd.io", "ratelimits.ambit.dev"},
		},
		{
			module: "sigs.k8s.io/gateway-api", files: "config/crd/experimental/gateway.networking.x-k8s.io_*.yaml",
			names: []string{"xbackendtrafficpolicies.gateway.networking.x-k8s.io"},
		},
	}
}

func main() {
	out := flag.String("o", "crds.yaml.gz", "`FILE` to write")
	flag.Parse()
	text, err := collect()
	if err == nil {
		err = write(*out, text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gencrds:", err)
		os.Exit(1)
	}
}

// nameLine finds the name of the object that a document holds.
var nameLine = regexp.MustCompile(`(?m)^  name: (\S+)$`)

// collect returns the definitions as YAML documents, in the order of sources.
func collect() ([]byte, error) {
	var docs []string
	for _, s := range sources() {
		version, dir, err := locate(s.module)
		if err != nil {
			return nil, err
		}
		found, err := s.read(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range s.names {
			doc, ok := found[name]
			if !ok {
				return nil, fmt.Errorf("%s %s has no definition of %s", s.module, version, name)
			}
			docs = append(docs, fmt.Sprintf("# %s\n%s", strings.TrimSpace(s.module+" "+version), doc))
		}
	}
	return []byte(strings.Join(docs, "\n---\n") + "\n"), nil
}

// locate asks the go command where a module lies. Our own has no version.
func locate(module string) (version, dir string, err error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}} {{.Dir}}", module).Output()
	if err != nil {
		return "", "", fmt.Errorf("where module %s lies: %w", module, err)
	}
	version, dir, _ = strings.Cut(strings.TrimRight(string(out), "\n"), " ")
	if dir == "" {
		return "", "", fmt.Errorf("module %s is not downloaded: run go mod download %s", module, module)
	}
	return version, dir, nil
}

// read returns the documents of s by the names of their objects.
func (s source) read(dir string) (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(s.files)))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	found := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for doc := range strings.SplitSeq("\n"+string(text), "\n---\n") {
			if m := nameLine.FindStringSubmatch(doc); m != nil {
				found[m[1]] = strings.TrimSpace(doc)
			}
		}
	}
	return found, nil
}

// write writes text compressed, without a name and without a time.
func write(path string, text []byte) error {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, bytes.NewReader(text)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}
