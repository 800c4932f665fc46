package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/ambit-mesh/ambit/internal/yamldir"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
)

// Directory is a source that reads manifests of Namespaces and Pods; other kinds
// in the directory are left to others.
type Directory struct {
	// Set by NewDirectory, then only read.
	log    *zap.Logger
	reader *yamldir.Reader

	// mu guards the fields below. It is never held while the reader reads.
	mu      sync.Mutex
	refused map[string]string // file to reason, as logged last
}

var _ PodSource = (*Directory)(nil)

// NewDirectory makes a source over dir. It reads nothing yet.
func NewDirectory(dir string, log *zap.Logger) *Directory {
	d := &Directory{log: log.Named("source"), refused: map[string]string{}}
	d.reader = yamldir.NewReader(yamldir.Config{Dir: dir, Check: check})
	return d
}

// check refuses a file whose Pods or Namespaces cannot be read.
func check(f *yamldir.File) error {
	for _, doc := range f.Documents {
		var err error
		switch {
		case isKind(doc, "Pod"):
			err = doc.Decode(&corev1.Pod{})
		case isKind(doc, "Namespace"):
			err = doc.Decode(&corev1.Namespace{})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isKind says whether doc is an object of the core group.
func isKind(doc *yamldir.Document, kind string) bool {
	return doc.APIVersion == "v1" && doc.Kind == kind
}

// Lookup reads what has changed in the directory, and finds the pod.
func (d *Directory) Lookup(ctx context.Context, namespace, name string) (Pod, bool, error) {
	set, err := d.reader.Read(ctx)
	if err != nil {
		return Pod{}, false, err
	}
	var pod *corev1.Pod
	var ns *corev1.Namespace
	for _, f := range set.Files {
		for _, doc := range f.Documents {
			switch {
			case isKind(doc, "Pod") && doc.Name == name && doc.Key().Namespace == namespace:
				pod = &corev1.Pod{}
				err = doc.Decode(pod)
			case isKind(doc, "Namespace") && doc.Name == namespace:
				ns = &corev1.Namespace{}
				err = doc.Decode(ns)
			}
			if err != nil {
				return Pod{}, false, err
			}
		}
	}
	if pod == nil || ns == nil {
		if err := neverRead(set); err != nil {
			return Pod{}, false, err
		}
	}
	if pod == nil {
		return Pod{}, false, nil
	}
	if ns == nil {
		ns = &corev1.Namespace{} // one without a manifest has no labels
	}
	return FromKubernetes(pod, namespace, ns.Labels), true, nil
}

// Fetch is Lookup, which reads the directory each time.
func (d *Directory) Fetch(ctx context.Context, namespace, name string) (Pod, bool, error) {
	return d.Lookup(ctx, namespace, name)
}

// List reads what has changed in the directory, and returns all pods in it.
func (d *Directory) List(ctx context.Context) ([]Pod, error) {
	set, err := d.reader.Read(ctx)
	if err != nil {
		return nil, err
	}
	namespaces := map[string]map[string]string{}
	type found struct {
		pod       *corev1.Pod
		namespace string
	}
	var pods []found
	for _, f := range set.Files {
		for _, doc := range f.Documents {
			switch {
			case isKind(doc, "Pod"):
				pod := &corev1.Pod{}
				err = doc.Decode(pod)
				pods = append(pods, found{pod, doc.Key().Namespace})
			case isKind(doc, "Namespace"):
				ns := &corev1.Namespace{}
				err = doc.Decode(ns)
				namespaces[doc.Name] = ns.Labels
			}
			if err != nil {
				return nil, err
			}
		}
	}
	all := make([]Pod, 0, len(pods))
	for _, p := range pods {
		all = append(all, FromKubernetes(p.pod, p.namespace, namespaces[p.namespace]))
	}
	return all, nil
}

// neverRead names a file that is refused and has no last good state. What is not
// found may be in it: a mistake in a manifest must not take a pod out of the
// mesh when the agent starts again.
func neverRead(set yamldir.Set) error {
	for _, e := range set.Refused {
		if !slices.ContainsFunc(set.Files, func(f *yamldir.File) bool { return f.Path == e.File }) {
			return fmt.Errorf("a manifest cannot be read and may hold it: %w", e)
		}
	}
	return nil
}

// FromKubernetes takes what we need from a Pod object, which is of namespace
// whatever it says itself. Its addresses are left out.
func FromKubernetes(p *corev1.Pod, namespace string, namespaceLabels map[string]string) Pod {
	account := p.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	uid := string(p.UID)
	if uid == "" {
		uid = "pod/" + namespace + "/" + p.Name // a manifest that no cluster has seen
	}
	return Pod{
		UID: uid, StaticUID: p.Annotations[mirrorAnnotation], Namespace: namespace, Name: p.Name, ServiceAccount: account,
		Node: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
		Terminal: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
		Labels:   p.Labels, Annotations: p.Annotations, NamespaceLabels: namespaceLabels,
	}
}

// Watch calls fn at each change of the directory, and logs files that are
// refused.
func (d *Directory) Watch(ctx context.Context, fn func()) error {
	return d.reader.Watch(ctx, func(set yamldir.Set) {
		d.logRefused(set)
		fn()
	})
}

// logRefused logs what is refused now and was not before, or for another reason.
func (d *Directory) logRefused(set yamldir.Set) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := map[string]string{}
	for _, e := range set.Refused {
		now[e.File] = e.Error()
		if d.refused[e.File] != e.Error() {
			d.log.Error("manifest refused, what it said before stays in force", zap.String("file", e.File), zap.Int("line", e.Line), zap.Error(e))
		}
	}
	d.refused = now
}
