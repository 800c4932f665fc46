package install

import (
	"bytes"
	"io"

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

// Print writes all that an installation consists of as YAML documents, in the
// order in which they have to be applied: for tools that apply files.
func Print(w io.Writer, o Options, definitions bool) error {
	rendered, err := Render(o)
	if err != nil {
		return err
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
