package waypoints

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"istio.io/api/label"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
)

// Subject is a namespace or a service that a person binds to a waypoint.
type Subject struct {
	Namespace string
	Service   string // empty: the whole namespace
}

// ParseSubject reads namespace/NAME, service/NAME, which is of the given namespace,
// or service/NAMESPACE/NAME.
func ParseSubject(text, namespace string) (Subject, error) {
	parts := strings.Split(text, "/")
	for _, p := range parts {
		if p == "" {
			parts = nil
		}
	}
	switch {
	case len(parts) == 2 && parts[0] == "namespace":
		return Subject{Namespace: parts[1]}, nil
	case len(parts) == 2 && parts[0] == "service":
		return Subject{Namespace: namespace, Service: parts[1]}, nil
	case len(parts) == 3 && parts[0] == "service":
		return Subject{Namespace: parts[1], Service: parts[2]}, nil
	}
	return Subject{}, fmt.Errorf("%q: want namespace/NAME, service/NAME or service/NAMESPACE/NAME", text)
}

// String is "service shop/web".
func (s Subject) String() string {
	if s.Service == "" {
		return "namespace " + s.Namespace
	}
	return "service " + s.Namespace + "/" + s.Service
}

// Labels are those that bind it to a waypoint; of the zero Name those that were
// taken away, as nil.
func (s Subject) Labels(waypoint Name) map[string]any {
	labels := map[string]any{label.IoIstioUseWaypoint.Name: nil, label.IoIstioUseWaypointNamespace.Name: nil}
	if waypoint.Name != "" {
		labels[label.IoIstioUseWaypoint.Name] = waypoint.Name
	}
	if waypoint.Name != "" && waypoint.Namespace != s.Namespace {
		labels[label.IoIstioUseWaypointNamespace.Name] = waypoint.Namespace
	}
	return labels
}

// read reads its labels.
func (s Subject) read(ctx context.Context, client *kube.Client) (labels map[string]string, err error) {
	if s.Service == "" {
		o, err := client.Kube.CoreV1().Namespaces().Get(ctx, s.Namespace, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return o.Labels, nil
	}
	o, err := client.Kube.CoreV1().Services(s.Namespace).Get(ctx, s.Service, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return o.Labels, nil
}

// Check reports that it is there.
func (s Subject) Check(ctx context.Context, client *kube.Client) error {
	_, err := s.read(ctx, client)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no %s", s)
	}
	return err
}

// Bind sets the labels that bind s to a waypoint, and returns the one that they named
// before: the zero Name when they named none. The zero Name as waypoint takes them
// away.
func Bind(ctx context.Context, client *kube.Client, s Subject, waypoint Name) (before Name, err error) {
	labels, err := s.read(ctx, client)
	if apierrors.IsNotFound(err) {
		return before, fmt.Errorf("there is no %s", s)
	}
	if err != nil {
		return before, err
	}
	if name := labels[label.IoIstioUseWaypoint.Name]; name != "" {
		before = Name{Namespace: s.Namespace, Name: name}
		if other := labels[label.IoIstioUseWaypointNamespace.Name]; other != "" {
			before.Namespace = other
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": s.Labels(waypoint)}})
	if err != nil {
		return before, err
	}
	by := metav1.PatchOptions{FieldManager: fieldManager}
	if s.Service == "" {
		_, err = client.Kube.CoreV1().Namespaces().Patch(ctx, s.Namespace, types.MergePatchType, patch, by)
	} else {
		_, err = client.Kube.CoreV1().Services(s.Namespace).Patch(ctx, s.Service, types.MergePatchType, patch, by)
	}
	return before, err
}
