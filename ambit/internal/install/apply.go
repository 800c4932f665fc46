package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
	"github.com/ambit-mesh/ambit/manifests"
)

// ErrOfHelm means that helm made the installation, and has to change it.
var ErrOfHelm = errors.New("this installation was made by helm: use helm upgrade or helm uninstall (helm install --take-ownership turns one of the CLI into one of helm)")

// Installer changes the installation in one namespace of a cluster.
type Installer struct {
	Client    *kube.Client
	Namespace string
	Say       func(format string, args ...any) // progress, a line at a time
}

// Apply installs, or replaces what is installed. skipDefinitions leaves the
// definitions of kinds to somebody else. With staged each part is replaced only
// after the one it depends on runs; staged is called for each, after its object
// was applied.
func (i *Installer) Apply(ctx context.Context, o Options, skipDefinitions bool, staged func(ctx context.Context, part *unstructured.Unstructured) error) error {
	rendered, err := Render(o)
	if err != nil {
		return err
	}
	if err := i.checkOwner(ctx, rendered.Objects); err != nil {
		return err
	}
	if err := i.makeNamespace(ctx); err != nil {
		return err
	}
	if !skipDefinitions {
		if err := i.define(ctx); err != nil {
			return err
		}
	}
	old, err := ReadInventory(ctx, i.Client.Kube, i.Namespace)
	if err != nil {
		return err
	}
	var refs []Ref
	for _, object := range rendered.Objects {
		refs = append(refs, refOf(object))
	}
	// Until all is applied the inventory names what was there and what will be:
	// whatever happens in between, an uninstallation finds everything.
	inv := &Inventory{Version: o.Version, Values: o.Values, Objects: refs}
	var gone []Ref
	if old != nil {
		gone = slices.DeleteFunc(slices.Clone(old.Objects), func(r Ref) bool { return slices.Contains(refs, r) })
		inv.with(gone)
	}
	if err := inv.write(ctx, i.Client.Kube, i.Namespace); err != nil {
		return err
	}
	for _, object := range rendered.Objects {
		if err := i.apply(ctx, object); err != nil {
			return err
		}
		if staged != nil && (object.GetKind() == "Deployment" || object.GetKind() == "DaemonSet") {
			if err := staged(ctx, object); err != nil {
				return err
			}
		}
	}
	i.Say("%d objects applied", len(rendered.Objects))
	for _, r := range gone {
		if err := i.delete(ctx, r); err != nil {
			return err
		}
		i.Say("removed %v, which this version does not have", r)
	}
	inv.Objects, inv.Complete = refs, true
	return inv.write(ctx, i.Client.Kube, i.Namespace)
}

// checkOwner checks that none of the objects belongs to somebody else.
func (i *Installer) checkOwner(ctx context.Context, objects []*unstructured.Unstructured) error {
	var problems []error
	for _, object := range objects {
		resource, err := i.Client.Resource(object)
		if err != nil {
			return err
		}
		have, err := resource.Get(ctx, object.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		switch {
		case have.GetLabels()["app.kubernetes.io/managed-by"] == "Helm" && have.GetLabels()[PartOfLabel] == PartOf:
			return ErrOfHelm
		case have.GetLabels()[PartOfLabel] != PartOf:
			problems = append(problems, fmt.Errorf("%v is there and is not of ambit (it has no label %s=%s): remove it, or the installation it belongs to, first", refOf(object), PartOfLabel, PartOf))
		}
	}
	return errors.Join(problems...)
}

// makeNamespace creates the installation namespace when it is not there. One that
// is there must let privileged pods in.
func (i *Installer) makeNamespace(ctx context.Context) error {
	want := namespaceObject(i.Namespace)
	resource, err := i.Client.Resource(want)
	if err != nil {
		return err
	}
	have, err := resource.Get(ctx, i.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = resource.Create(ctx, want, metav1.CreateOptions{FieldManager: fieldManager})
		return err
	}
	if err != nil {
		return err
	}
	const label = "pod-security.kubernetes.io/enforce"
	if level := have.GetLabels()[label]; level != "" && level != "privileged" {
		return fmt.Errorf("namespace %s refuses privileged pods (%s=%s), which the parts on the nodes are: kubectl label --overwrite namespace %s %s=privileged", i.Namespace, label, level, i.Namespace, label)
	}
	return nil
}

// define creates the definitions that are missing. Those that are there stay as
// they are: they may be newer, and others may rest on them.
func (i *Installer) define(ctx context.Context) error {
	docs, err := manifests.Definitions()
	if err != nil {
		return err
	}
	var made, there []string
	for _, doc := range docs {
		objects, err := ParseObjects(doc)
		if err != nil {
			return fmt.Errorf("embedded definitions: %w", err)
		}
		for _, object := range objects {
			labels := object.GetLabels()
			if labels == nil {
				labels = map[string]string{}
			}
			labels[PartOfLabel] = PartOf
			object.SetLabels(labels)
			resource, err := i.Client.Resource(object)
			if err != nil {
				return err
			}
			switch _, err = resource.Create(ctx, object, metav1.CreateOptions{FieldManager: fieldManager}); {
			case apierrors.IsAlreadyExists(err):
				there = append(there, object.GetName())
			case err != nil:
				return fmt.Errorf("definition %s: %w", object.GetName(), err)
			default:
				made = append(made, object.GetName())
			}
		}
	}
	if len(made) > 0 {
		i.Say("created %d definitions: %s", len(made), strings.Join(made, " "))
	}
	if len(there) > 0 {
		i.Say("%d definitions were there and stay as they are", len(there))
	}
	return nil
}

// apply applies one object server-side.
func (i *Installer) apply(ctx context.Context, object *unstructured.Unstructured) error {
	resource, err := i.Client.Resource(object)
	if err != nil {
		return err
	}
	if _, err := resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("apply %v: %w", refOf(object), err)
	}
	return nil
}

// delete deletes an object, if it is there and is ours, and does not wait.
func (i *Installer) delete(ctx context.Context, r Ref) error {
	object := r.object()
	resource, err := i.Client.Resource(object)
	if err != nil {
		return nil // the cluster does not even know the kind
	}
	have, err := resource.Get(ctx, r.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if have.GetLabels()[PartOfLabel] != PartOf {
		i.Say("kept %v: it is not of ambit any more", r)
		return nil
	}
	uid, background := have.GetUID(), metav1.DeletePropagationBackground
	err = resource.Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: (*types.UID)(&uid)}, PropagationPolicy: &background})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %v: %w", r, err)
	}
	return nil
}

// Installed returns the inventory, or why there is none.
func (i *Installer) Installed(ctx context.Context) (*Inventory, error) {
	inv, err := ReadInventory(ctx, i.Client.Kube, i.Namespace)
	if err == nil && inv == nil {
		return nil, i.explainAbsent(ctx)
	}
	return inv, err
}
