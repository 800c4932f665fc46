package install

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"
)

// inventoryName is the ConfigMap that remembers an installation.
const inventoryName = "ambit-installation"

// fieldManager owns what the CLI applies.
const fieldManager = "ambit"

// Inventory is what an installation consists of, as far as the CLI made it.
type Inventory struct {
	Version  string         // that was applied
	Complete bool           // all objects were applied; else it was interrupted
	Values   map[string]any // over those of the chart
	Objects  []Ref          // in the order in which they were applied
}

// Ref names an object.
type Ref struct{ APIVersion, Kind, Namespace, Name string }

// refOf names o.
func refOf(o *unstructured.Unstructured) Ref {
	return Ref{o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName()}
}

// String is the ref as people read it.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// object is an object with no content but its name.
func (r Ref) object() *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(r.APIVersion)
	o.SetKind(r.Kind)
	o.SetNamespace(r.Namespace)
	o.SetName(r.Name)
	return o
}

// ReadInventory returns the inventory in namespace, or nil when there is none.
func ReadInventory(ctx context.Context, client kubernetes.Interface, namespace string) (*Inventory, error) {
	cm, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, inventoryName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	inv, err := parseInventory(cm.Data)
	if err != nil {
		return nil, fmt.Errorf("ConfigMap %s/%s: %w", namespace, inventoryName, err)
	}
	return inv, nil
}

// parseInventory reads the text of an inventory.
func parseInventory(data map[string]string) (*Inventory, error) {
	inv := &Inventory{Version: data["version"], Complete: data["complete"] == "true"}
	if err := yaml.Unmarshal([]byte(data["values"]), &inv.Values); err != nil {
		return nil, fmt.Errorf("values: %w", err)
	}
	for line := range strings.Lines(data["objects"]) {
		fields := strings.Split(strings.TrimSpace(line), " ")
		if len(fields) != 4 || fields[0] == "" || fields[1] == "" || fields[3] == "" {
			return nil, fmt.Errorf("objects: line %q: want APIVERSION KIND NAMESPACE NAME", strings.TrimSpace(line))
		}
		inv.Objects = append(inv.Objects, Ref{fields[0], fields[1], strings.Trim(fields[2], "-"), fields[3]})
	}
	return inv, nil
}

// text is the inventory as it is kept.
func (inv *Inventory) text() (map[string]string, error) {
	values, err := yaml.Marshal(inv.Values)
	if err != nil {
		return nil, err
	}
	var objects strings.Builder
	for _, r := range inv.Objects {
		namespace := r.Namespace
		if namespace == "" {
			namespace = "-"
		}
		fmt.Fprintln(&objects, r.APIVersion, r.Kind, namespace, r.Name)
	}
	return map[string]string{
		"version": inv.Version, "complete": fmt.Sprint(inv.Complete), "values": string(values), "objects": objects.String(),
	}, nil
}

// with adds refs that are not there yet.
func (inv *Inventory) with(refs []Ref) {
	for _, r := range refs {
		if !slices.Contains(inv.Objects, r) {
			inv.Objects = append(inv.Objects, r)
		}
	}
}

// write keeps inv in namespace.
func (inv *Inventory) write(ctx context.Context, client kubernetes.Interface, namespace string) error {
	data, err := inv.text()
	if err != nil {
		return err
	}
	cms := client.CoreV1().ConfigMaps(namespace)
	want := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: inventoryName, Namespace: namespace, Labels: map[string]string{PartOfLabel: PartOf}},
		Data:       data,
	}
	_, err = cms.Update(ctx, want, metav1.UpdateOptions{FieldManager: fieldManager})
	if apierrors.IsNotFound(err) {
		_, err = cms.Create(ctx, want, metav1.CreateOptions{FieldManager: fieldManager})
	}
	return err
}
