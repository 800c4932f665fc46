package install

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/manifests"
)

// namespaceObject is the namespace of an installation. The parts on the nodes
// need what the admission of pods refuses elsewhere.
func namespaceObject(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": name, "labels": map[string]any{
			"pod-security.kubernetes.io/enforce": "privileged",
			PartOfLabel:                          PartOf,
		}},
	}}
}

// nameLabel says which part an object belongs to.
const nameLabel = "app.kubernetes.io/name"

// Print writes all that an installation consists of as YAML documents, in the
// order in which they have to be applied: for tools that apply files. When parts
// are named (istiod-lite, ztunnel, cni), it writes only what belongs to them: for
// a part that takes the place of its counterpart in another installation.
func Print(w io.Writer, o Options, definitions bool, parts ...string) error {
	rendered, err := Render(o)
	if err != nil {
		return err
	}
	if len(parts) > 0 {
		if rendered.Objects, err = onlyParts(rendered.Objects, parts); err != nil {
			return err
		}
	}
	var out bytes.Buffer
	write := func(object *unstructured.Unstructured) error {
		text, err := yaml.Marshal(object.Object)
		if err != nil {
			return err
		}
		out.WriteString("---\n")
		out.Write(text)
		return nil
	}
	if err := write(namespaceObject(o.Namespace)); err != nil {
		return err
	}
	if definitions {
		docs, err := manifests.Definitions()
		if err != nil {
			return err
		}
		for _, doc := range docs {
			out.WriteString("---\n")
			out.Write(doc)
		}
	}
	for _, object := range rendered.Objects {
		if err := write(object); err != nil {
			return err
		}
	}
	_, err = w.Write(out.Bytes())
	return err
}

// onlyParts keeps the objects of the parts of these names.
func onlyParts(objects []*unstructured.Unstructured, parts []string) ([]*unstructured.Unstructured, error) {
	var kept []*unstructured.Unstructured
	var known []string
	for _, object := range objects {
		part := object.GetLabels()[nameLabel]
		if !slices.Contains(known, part) {
			known = append(known, part)
		}
		if slices.Contains(parts, part) {
			kept = append(kept, object)
		}
	}
	for _, part := range parts {
		if !slices.Contains(known, part) {
			return nil, fmt.Errorf("no part is called %q: want some of %s", part, strings.Join(known, ", "))
		}
	}
	return kept, nil
}
