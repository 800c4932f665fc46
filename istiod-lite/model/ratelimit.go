package model

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/ambit-mesh/ambit/internal/meshapi/waypointapi"
	"github.com/ambit-mesh/ambit/istiod-lite/model/routes"
)

// RateLimit bounds how many requests each instance of a waypoint lets through a rule of
// a route. Rules name it in a filter of type ExtensionRef; each counts by itself. The
// Gateway API has no filter of its own for that.
type RateLimit struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              RateLimitSpec   `json:"spec"`
	Status            RateLimitStatus `json:"status,omitempty"`
}

// RateLimitSpec is what a RateLimit says.
type RateLimitSpec struct {
	// Requests may pass at once, and so many more in each Per.
	Requests uint32 `json:"requests"`
	// Per is a duration: 1s, 1m.
	Per string `json:"per"`
	// PerIdentity gives each caller a count of its own: the workload identity that it
	// has proven. Those that have none share one.
	PerIdentity bool `json:"perIdentity,omitempty"`
}

// RateLimitStatus is what the control plane says about it.
type RateLimitStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// RateLimitList is what an API server answers to a list.
type RateLimitList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []RateLimit `json:"items"`
}

var (
	_ runtime.Object = (*RateLimit)(nil)
	_ runtime.Object = (*RateLimitList)(nil)
)

// RateLimitGroup is the group of the API that defines RateLimit.
const RateLimitGroup = "ambit.dev"

// Bounds of a RateLimit. Our choice: what lasts longer than a day no instance of a
// waypoint remembers.
const (
	mostLimited  = 1_000_000
	longestLimit = 24 * time.Hour
)

// DeepCopyObject implements [runtime.Object].
func (l *RateLimit) DeepCopyObject() runtime.Object { return l.deepCopy() }

// DeepCopyObject implements [runtime.Object].
func (l *RateLimitList) DeepCopyObject() runtime.Object {
	out := &RateLimitList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].deepCopy())
	}
	return out
}

// deepCopy shares nothing with l.
func (l *RateLimit) deepCopy() *RateLimit {
	out := &RateLimit{TypeMeta: l.TypeMeta, ObjectMeta: *l.ObjectMeta.DeepCopy(), Spec: l.Spec}
	for i := range l.Status.Conditions {
		out.Status.Conditions = append(out.Status.Conditions, *l.Status.Conditions[i].DeepCopy())
	}
	return out
}

// rateLimit checks a RateLimit.
func (c *checker) rateLimit(l *RateLimit) {
	if n := l.Spec.Requests; n < 1 || n > mostLimited {
		c.add("spec.requests", "want a number from 1 to %d, not %d", mostLimited, n)
	}
	if d, err := time.ParseDuration(l.Spec.Per); err != nil || d <= 0 || d > longestLimit {
		c.add("spec.per", "want more than 0s and at most %v, not %q", longestLimit, l.Spec.Per)
	}
}

// problemOf is what is wrong with a RateLimit; "" when nothing is.
func (l *RateLimit) problemOf() string {
	c := &checker{}
	c.rateLimit(l)
	var texts []string
	for _, p := range c.found {
		texts = append(texts, p.Error())
	}
	return strings.Join(texts, "; ")
}

// extensionsOf finds what filters of a namespace's routes refer to.
func (m *Model) extensionsOf(namespace string) routes.Extensions {
	return func(group, kind, name string) (*waypointapi.Filter, string) {
		if group != RateLimitGroup || Kind(kind) != KindRateLimit {
			return nil, fmt.Sprintf("filters of kind %s of group %q are not supported: want a %s of group %s", kind, group, KindRateLimit, RateLimitGroup)
		}
		l := m.space(namespace).limits[name]
		if l == nil {
			return nil, fmt.Sprintf("there is no %s %s/%s", KindRateLimit, namespace, name)
		}
		if why := l.problemOf(); why != "" {
			return nil, fmt.Sprintf("%s %s/%s: %s", KindRateLimit, namespace, name, why)
		}
		per, err := time.ParseDuration(l.Spec.Per)
		if err != nil {
			return nil, err.Error()
		}
		return &waypointapi.Filter{Kind: &waypointapi.Filter_RateLimit{RateLimit: &waypointapi.RateLimit{
			Requests: l.Spec.Requests, Per: durationpb.New(per), PerIdentity: l.Spec.PerIdentity,
		}}}, ""
	}
}

// fromRateLimit says what becomes of a RateLimit: which routes name it.
func (m *Model) fromRateLimit(l *RateLimit) []Condition {
	if why := l.problemOf(); why != "" {
		return []Condition{{Type: ConditionAccepted, Reason: ReasonInvalid, Message: why + ": requests of rules that name it are answered 500"}}
	}
	var names []string
	for key := range m.attached[Key{KindRateLimit, l.Namespace, l.Name}] {
		names = append(names, key.String())
	}
	if len(names) == 0 {
		return []Condition{{Type: ConditionAccepted, Reason: ReasonTargetNotFound, Message: fmt.Sprintf(
			"no HTTPRoute and no GRPCRoute of namespace %s names it: a rule does in a filter of type ExtensionRef", l.Namespace)}}
	}
	slices.Sort(names)
	return []Condition{{Type: ConditionAccepted, True: true, Reason: ReasonAccepted, Message: "at each instance of a waypoint, for each rule that names it: " + strings.Join(names, ", ")}}
}
