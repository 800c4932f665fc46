package install

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// definitionsResource is where CustomResourceDefinitions are.
func definitionsResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
}

// removeDefinitions removes the definitions that install made, unless objects of
// their kind exist: they would go too.
func (i *Installer) removeDefinitions(ctx context.Context) error {
	resource := i.Client.Dynamic.Resource(definitionsResource())
	crds, err := resource.List(ctx, metav1.ListOptions{LabelSelector: PartOfLabel + "=" + PartOf})
	if err != nil {
		return err
	}
	for _, crd := range crds.Items {
		used, err := i.firstObject(ctx, &crd)
		if err != nil {
			return err
		}
		if used != "" {
			i.Say("kept definition %s: %s is of that kind", crd.GetName(), used)
			continue
		}
		if err := resource.Delete(ctx, crd.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		i.Say("removed definition %s", crd.GetName())
	}
	return nil
}

// firstObject names an object of the kind that crd defines; empty when there is
// none.
func (i *Installer) firstObject(ctx context.Context, crd *unstructured.Unstructured) (string, error) {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if served, _ := version["served"].(bool); !served {
			continue
		}
		name, _ := version["name"].(string)
		list, err := i.Client.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: name, Resource: plural}).List(ctx, metav1.ListOptions{Limit: 1})
		if apierrors.IsNotFound(err) || err == nil && len(list.Items) == 0 {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		return strings.TrimPrefix(list.Items[0].GetNamespace()+"/"+list.Items[0].GetName(), "/"), nil
	}
	return "", nil
}

// removeNamespace removes the installation namespace when install made it and
// nothing of anybody else is in it.
func (i *Installer) removeNamespace(ctx context.Context) error {
	namespaces := i.Client.Kube.CoreV1().Namespaces()
	ns, err := namespaces.Get(ctx, i.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if ns.Labels[PartOfLabel] != PartOf {
		return nil
	}
	other, err := i.foreign(ctx)
	if err != nil {
		return err
	}
	if other != "" {
		i.Say("kept namespace %s: %s is in it", i.Namespace, other)
		return nil
	}
	if err := namespaces.Delete(ctx, i.Namespace, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	err = poll(ctx, func() (bool, error) {
		_, err := namespaces.Get(ctx, i.Namespace, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
	if err != nil {
		return fmt.Errorf("namespace %s does not go away: %w", i.Namespace, err)
	}
	i.Say("removed namespace %s", i.Namespace)
	return nil
}

// foreign names an object in the installation namespace that is neither of ambit
// nor one that Kubernetes puts into every namespace; empty when there is none.
func (i *Installer) foreign(ctx context.Context) (string, error) {
	lists, err := i.Client.Kube.Discovery().ServerPreferredNamespacedResources()
	if len(lists) == 0 && err != nil {
		return "", err
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return "", err
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") || ignoredKind(r.Kind) {
				continue
			}
			objects, err := i.Client.Dynamic.Resource(gv.WithResource(r.Name)).Namespace(i.Namespace).List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				return "", err
			}
			for _, o := range objects.Items {
				if !everywhere(r.Kind, &o) && o.GetDeletionTimestamp() == nil && !ours(&o) {
					return r.Kind + " " + o.GetName(), nil
				}
			}
		}
	}
	return "", nil
}

// ignoredKind are kinds whose objects are nobody's property.
func ignoredKind(kind string) bool {
	return slices.Contains([]string{"Event", "Endpoints", "EndpointSlice", "PodMetrics", "ControllerRevision"}, kind)
}

// everywhere tells what Kubernetes puts into every namespace.
func everywhere(kind string, o *unstructured.Unstructured) bool {
	return kind == "ServiceAccount" && o.GetName() == "default" || kind == "ConfigMap" && o.GetName() == "kube-root-ca.crt"
}

// ours tells whether o, or what made it, is of ambit.
func ours(o *unstructured.Unstructured) bool {
	return o.GetLabels()[PartOfLabel] == PartOf && o.GetName() != "istio-ca-secret"
}
