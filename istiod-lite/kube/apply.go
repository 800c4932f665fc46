package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// Target is an object, or a part of it, that is written.
type Target struct {
	Group, Version, Resource string
	Kind                     string
	Namespace, Name          string
	Subresource              string // such as status; empty: the object itself
}

// StatusOf is the status of an object that the model knows. version is that of
// custom kinds which the API server serves; see [Source.Version].
func StatusOf(key model.Key, version string) (Target, bool) {
	for _, k := range kinds() {
		if k.kind == key.Kind {
			return Target{
				Group: k.group, Version: version, Resource: k.resource, Kind: string(k.kind),
				Namespace: key.Namespace, Name: key.Name, Subresource: "status",
			}, true
		}
	}
	return Target{}, false
}

// Apply says that the fields of content are ours and what they have to be, by a
// server-side apply of manager. Fields that manager has applied before and that
// content does not have are removed.
func (c *Client) Apply(ctx context.Context, manager string, t Target, content map[string]any) error {
	return c.apply(ctx, manager, t, content, true)
}

// apply does that; force makes fields of others ours.
func (c *Client) apply(ctx context.Context, manager string, t Target, content map[string]any, force bool) error {
	body := map[string]any{
		"apiVersion": metav1.GroupVersion{Group: t.Group, Version: t.Version}.String(),
		"kind":       t.Kind,
		"metadata":   t.metadata(),
	}
	for key, value := range content {
		if key == "metadata" { // labels and the like beside the name
			for k, v := range value.(map[string]any) {
				body["metadata"].(map[string]any)[k] = v
			}
			continue
		}
		body[key] = value
	}
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("apply %s %s/%s: %w", t.Kind, t.Namespace, t.Name, err)
	}
	req := c.typed.CoreV1().RESTClient().Patch(types.ApplyPatchType).AbsPath(t.path()...).
		VersionedParams(&metav1.PatchOptions{FieldManager: manager, Force: &force}, metav1.ParameterCodec).
		SetHeader("Accept", "application/json").Body(text)
	err = req.Do(ctx).Error()
	if err != nil && !force && isConflict(err) {
		err = fmt.Errorf("%w: %w", ErrConflict, err)
	}
	if err != nil {
		return fmt.Errorf("apply %s %s/%s: %w", t.Kind, t.Namespace, t.Name, err)
	}
	return nil
}

// metadata names the target.
func (t Target) metadata() map[string]any {
	if t.Namespace == "" {
		return map[string]any{"name": t.Name}
	}
	return map[string]any{"name": t.Name, "namespace": t.Namespace}
}

// path is the URL path of the target.
func (t Target) path() []string {
	path := []string{"/api", t.Version}
	if t.Group != "" {
		path = []string{"/apis", t.Group, t.Version}
	}
	if t.Namespace != "" {
		path = append(path, "namespaces", t.Namespace)
	}
	path = append(path, t.Resource, t.Name)
	if t.Subresource != "" {
		path = append(path, t.Subresource)
	}
	return path
}

// Version is the version of a kind that is read; empty when the cluster has none.
func (s *Source) Version(kind model.Kind) string {
	f := s.feeds[kind]
	if f == nil {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// CreateSecret makes a Secret unless there is one of that name, and reports
// whether it did. That there is one is no error.
func (c *Client) CreateSecret(ctx context.Context, namespace, name string, values map[string][]byte) (made bool, err error) {
	_, err = c.typed.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app.kubernetes.io/part-of": "ambit"}},
		Type:       "istio.io/ca-root",
		Data:       values,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	return err == nil, err
}

// RemoveTaint takes the taints of a key from a node, and reports whether there
// was one. Somebody who changes the taints at the same moment is not overwritten.
func (c *Client) RemoveTaint(ctx context.Context, node, taint string) (removed bool, err error) {
	n, err := c.typed.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		if isNotFound(err) {
			return false, nil
		}
		return false, err
	}
	left := slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t corev1.Taint) bool { return t.Key == taint })
	if len(left) == len(n.Spec.Taints) {
		return false, nil
	}
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/resourceVersion", "value": n.ResourceVersion},
		{"op": "replace", "path": "/spec/taints", "value": left},
	})
	if err != nil {
		return false, err
	}
	_, err = c.typed.CoreV1().Nodes().Patch(ctx, node, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: "istiod-lite"})
	return err == nil, err
}
