package keeper

import (
	"cmp"
	"context"
	"slices"
	"time"

	meta "istio.io/api/meta/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// standing is a condition as it stands in an object's status.
type standing struct {
	model.Condition
	since      time.Time
	generation int64
}

// statusOf reads the conditions of an object and splits ours from those of
// others.
func statusOf(o model.Object) (ours, others []standing) {
	var all []standing
	switch o := o.(type) {
	case *corev1.Service:
		all = readMeta(o.Status.Conditions)
	case *security.AuthorizationPolicy:
		all = readConditions(o.Status.GetConditions())
	case *security.RequestAuthentication:
		all = readConditions(o.Status.GetConditions())
	case *security.PeerAuthentication:
		all = readConditions(o.Status.GetConditions())
	case *networking.WorkloadEntry:
		all = readConditions(o.Status.GetConditions())
	case *networking.ServiceEntry:
		all = readConditions(o.Status.GetConditions())
	case *networking.VirtualService:
		all = readConditions(o.Status.GetConditions())
	case *networking.DestinationRule:
		all = readConditions(o.Status.GetConditions())
	case *model.ServiceProfile:
		all = readMeta(o.Status.Conditions)
	case *model.RateLimit:
		all = readMeta(o.Status.Conditions)
	}
	for _, c := range all {
		if model.IsOurCondition(c.Type) {
			ours = append(ours, c)
		} else {
			others = append(others, c)
		}
	}
	return ours, others
}

// readMeta reads those of kinds that follow Kubernetes.
func readMeta(conditions []metav1.Condition) []standing {
	var all []standing
	for _, c := range conditions {
		all = append(all, standing{
			Condition: model.Condition{Type: c.Type, True: c.Status == "True", Reason: c.Reason, Message: c.Message},
			since:     c.LastTransitionTime.Time, generation: c.ObservedGeneration,
		})
	}
	return all
}

// meta is the condition as kinds that follow Kubernetes have it.
func (c standing) meta() metav1.Condition {
	out := metav1.Condition{Type: c.Type, Status: "False", Reason: c.Reason, Message: c.Message, LastTransitionTime: metav1.NewTime(c.since), ObservedGeneration: c.generation}
	if c.True {
		out.Status = "True"
	}
	return out
}

// readConditions reads those of istio.io's kinds.
func readConditions(conditions []*meta.IstioCondition) []standing {
	var all []standing
	for _, c := range conditions {
		all = append(all, standing{
			Condition: model.Condition{Type: c.GetType(), True: c.GetStatus() == "True", Reason: c.GetReason(), Message: c.GetMessage()},
			since:     c.GetLastTransitionTime().AsTime(), generation: c.GetObservedGeneration(),
		})
	}
	return all
}

// keepConditions makes the status of an object say what its author should know.
func (k *Keeper) keepConditions(ctx context.Context, key model.Key) error {
	version := k.deps.Version(key.Kind)
	o, want := k.deps.World.Look(key)
	target, ok := kube.StatusOf(key, version)
	if o == nil || !ok || version == "" || o.GetDeletionTimestamp() != nil {
		return nil
	}
	ours, others := statusOf(o)
	if sameConditions(ours, want, o.GetGeneration()) {
		return nil
	}
	next := merge(ours, want, o.GetGeneration(), time.Now())
	says := map[string]any{}
	if key.Kind != model.KindService && len(others) > 0 {
		// There the list is one value, whoever wrote what of it.
		next = append(slices.Clone(others), next...)
		says["metadata"] = unlessChanged(o)
	}
	content := []any{}
	for _, c := range next {
		content = append(content, c.content())
	}
	says["status"] = map[string]any{"conditions": content}
	err := k.deps.Client.Apply(ctx, manager, target, says)
	if apierrors.IsNotFound(err) {
		return nil // it has gone, or a definition of somebody else gives it no status
	}
	if err != nil {
		return errorOf("status", key, err)
	}
	k.wrote(key)
	return nil
}

// unlessChanged is metadata with which a write is refused when the object is another
// than o by now: what others say in a list that we write as a whole must be what they
// said last.
func unlessChanged(o model.Object) map[string]any {
	return map[string]any{"resourceVersion": o.GetResourceVersion()}
}

// sameConditions reports whether what stands is what should.
func sameConditions(ours []standing, want []model.Condition, generation int64) bool {
	if len(ours) != len(want) {
		return false
	}
	for _, w := range want {
		if !slices.ContainsFunc(ours, func(c standing) bool { return c.Condition == w && c.generation == generation }) {
			return false
		}
	}
	return true
}

// merge is what should stand. A condition whose value stays the same keeps its
// time.
func merge(ours []standing, want []model.Condition, generation int64, now time.Time) []standing {
	var next []standing
	for _, w := range want {
		c := standing{Condition: w, since: now.UTC().Truncate(time.Second), generation: generation}
		for _, old := range ours {
			if old.Type == w.Type && old.True == w.True && !old.since.IsZero() && old.since.Unix() != 0 {
				c.since = old.since
			}
		}
		next = append(next, c)
	}
	slices.SortFunc(next, func(a, b standing) int { return cmp.Compare(a.Type, b.Type) })
	return next
}

// content is the condition as it is written.
func (c standing) content() map[string]any {
	status := "False"
	if c.True {
		status = "True"
	}
	out := map[string]any{
		"type": c.Type, "status": status, "reason": c.Reason, "message": c.Message,
		"lastTransitionTime": c.since.UTC().Format(time.RFC3339),
	}
	if c.generation != 0 {
		out["observedGeneration"] = c.generation
	}
	return out
}
