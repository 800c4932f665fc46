package members

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ambit-mesh/ambit/ambit/internal/check"
	"github.com/ambit-mesh/ambit/ambit/internal/install"
	"github.com/ambit-mesh/ambit/ambit/internal/kube"
)

// Namespace is how many pods of a namespace are in the mesh.
type Namespace struct {
	Name    string `json:"name"`
	Mode    string `json:"mode"`           // value of its label; empty: none
	Pods    int    `json:"pods"`           // that run
	InMesh  int    `json:"inMesh"`         // that are captured
	Missing int    `json:"missing"`        // that should be, and are not
	Note    string `json:"note,omitempty"` // what else there is to say
}

// Namespaces tells of all namespaces but the installation's.
func Namespaces(w *check.World) (out []Namespace) {
	for _, name := range slices.Sorted(maps.Keys(w.Namespaces)) {
		ns := Namespace{Name: name, Mode: w.Namespaces[name].Labels[install.ModeLabel]}
		for _, m := range List(w, nil) {
			if m.Namespace != name {
				continue
			}
			ns.Pods++
			switch m.State {
			case Failed:
				ns.Missing++
			case Outside:
			default:
				ns.InMesh++
			}
		}
		if f, other := check.OtherMesh(w.Namespaces[name]); other {
			ns.Note = f.What
		}
		if name != w.Namespace {
			out = append(out, ns)
		}
	}
	return out
}

// With returns the world as it will be when the namespace called name is in the
// mesh, so that checks say what will be wrong.
func With(w *check.World, name string) (*check.World, error) {
	ns, ok := w.Namespaces[name]
	if !ok {
		return nil, fmt.Errorf("there is no namespace %s", name)
	}
	if name == "kube-system" || name == w.Namespace {
		return nil, fmt.Errorf("pods of namespace %s are never taken into the mesh", name)
	}
	then := *w
	then.Namespaces = maps.Clone(w.Namespaces)
	labelled := ns.DeepCopy()
	if labelled.Labels == nil {
		labelled.Labels = map[string]string{}
	}
	labelled.Labels[install.ModeLabel] = install.ModeAmbient
	then.Namespaces[name] = labelled
	return &then, nil
}

// Obstacles are the errors that are there then and are not there now: what goes
// wrong by the change from now to then. That pods are not enrolled yet is none.
func Obstacles(now, then *check.World, at time.Time) (out []check.Finding) {
	have := check.Run(now, at).Findings
	for _, f := range check.Run(then, at).Findings {
		known := slices.ContainsFunc(have, func(h check.Finding) bool { return h == f })
		if !known && f.Check != "enrolment" && f.Level != check.Info {
			out = append(out, f)
		}
	}
	return out
}

// SetMode sets or, with an empty mode, removes the label of a namespace.
func SetMode(ctx context.Context, client *kube.Client, name, mode string) error {
	var value any
	if mode != "" {
		value = mode
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{install.ModeLabel: value}}})
	if err != nil {
		return err
	}
	_, err = client.Kube.CoreV1().Namespaces().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "ambit"})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no namespace %s", name)
	}
	return err
}

// Settle waits until the pods of a namespace are what their labels want. It says
// how many are whenever that changes.
func Settle(ctx context.Context, client *kube.Client, namespace, installation string, say func(format string, args ...any)) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var said string
	for {
		text, done, err := settled(ctx, client, namespace, installation)
		if done && err == nil {
			say("%s", text)
			return nil
		}
		if err == nil && text != said {
			say("waiting: %s", text)
			said = text
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("gave up waiting: %s", said)
			}
			return fmt.Errorf("%w; ambit pods --in %s and ambit check say more", err, namespace)
		}
	}
}

// settled looks at the pods of a namespace.
func settled(ctx context.Context, client *kube.Client, namespace, installation string) (text string, done bool, err error) {
	ns, err := client.Kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return "", false, err
	}
	pods, err := client.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", false, err
	}
	w := check.NewWorld(installation, ns, pods.Items)
	var in, open, all int
	for i := range w.Pods {
		p := &w.Pods[i]
		if !check.Running(p) {
			continue
		}
		all++
		marked, wants := p.Annotations[install.RedirectionAnnotation] == "enabled", w.InMesh(p)
		if marked {
			in++
		}
		if marked != wants {
			open++
		}
	}
	return fmt.Sprintf("namespace %s: %d of %d pods in the mesh", namespace, in, all), open == 0, nil
}
