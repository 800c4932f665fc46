package model

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/ambit-mesh/ambit/istiod-lite/model/routes"
)

// ServiceProfile is what users of another mesh write about the requests of a
// service. Its name is the host.
type ServiceProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ServiceProfileSpec   `json:"spec"`
	Status            ServiceProfileStatus `json:"status,omitempty"`
}

// ServiceProfileStatus is what the control plane says about it.
type ServiceProfileStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ServiceProfileList is what an API server answers to a list.
type ServiceProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []ServiceProfile `json:"items"`
}

var (
	_ runtime.Object = (*ServiceProfile)(nil)
	_ runtime.Object = (*ServiceProfileList)(nil)
)

// DeepCopyObject implements [runtime.Object].
func (p *ServiceProfile) DeepCopyObject() runtime.Object { return p.deepCopy() }

// DeepCopyObject implements [runtime.Object].
func (l *ServiceProfileList) DeepCopyObject() runtime.Object {
	out := &ServiceProfileList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].deepCopy())
	}
	return out
}

// deepCopy shares nothing with p.
func (p *ServiceProfile) deepCopy() *ServiceProfile {
	out := &ServiceProfile{TypeMeta: p.TypeMeta, ObjectMeta: *p.ObjectMeta.DeepCopy()}
	for i := range p.Spec.Routes {
		r := p.Spec.Routes[i]
		r.Condition, r.ResponseClasses = r.Condition.deepCopy(), copyAll(r.ResponseClasses)
		out.Spec.Routes = append(out.Spec.Routes, r)
	}
	if b := p.Spec.RetryBudget; b != nil {
		budget := *b
		out.Spec.RetryBudget = &budget
	}
	out.Spec.DstOverrides, out.Spec.OpaquePorts = copyAll(p.Spec.DstOverrides), slices.Clone(p.Spec.OpaquePorts)
	for i := range p.Status.Conditions {
		out.Status.Conditions = append(out.Status.Conditions, *p.Status.Conditions[i].DeepCopy())
	}
	return out
}

// copyAll copies values that nobody here reads.
func copyAll(all []map[string]any) []map[string]any {
	var out []map[string]any
	for _, one := range all {
		out = append(out, runtime.DeepCopyJSON(one))
	}
	return out
}

// ServiceProfileSpec is what a ServiceProfile says.
type ServiceProfileSpec struct {
	Routes       []ServiceProfileRoute `json:"routes,omitempty"`
	RetryBudget  *RetryBudget          `json:"retryBudget,omitempty"`
	DstOverrides []map[string]any      `json:"dstOverrides,omitempty"`
	OpaquePorts  []string              `json:"opaquePorts,omitempty"`
}

// ServiceProfileRoute is one route.
type ServiceProfileRoute struct {
	Name            string            `json:"name"`
	Condition       *RequestCondition `json:"condition,omitempty"`
	IsRetryable     bool              `json:"isRetryable,omitempty"`
	Timeout         string            `json:"timeout,omitempty"`
	ResponseClasses []map[string]any  `json:"responseClasses,omitempty"`
}

// RequestCondition is what a request has to be.
type RequestCondition struct {
	PathRegex string             `json:"pathRegex,omitempty"`
	Method    string             `json:"method,omitempty"`
	All       []RequestCondition `json:"all,omitempty"`
	Any       []RequestCondition `json:"any,omitempty"`
	Not       *RequestCondition  `json:"not,omitempty"`
}

// deepCopy shares nothing with c; nil stays nil.
func (c *RequestCondition) deepCopy() *RequestCondition {
	if c == nil {
		return nil
	}
	out := &RequestCondition{PathRegex: c.PathRegex, Method: c.Method, Not: c.Not.deepCopy()}
	for i := range c.All {
		out.All = append(out.All, *c.All[i].deepCopy())
	}
	for i := range c.Any {
		out.Any = append(out.Any, *c.Any[i].deepCopy())
	}
	return out
}

// RetryBudget bounds retries.
type RetryBudget struct {
	RetryRatio          float64 `json:"retryRatio"`
	MinRetriesPerSecond uint32  `json:"minRetriesPerSecond"`
	TTL                 string  `json:"ttl,omitempty"`
}

// Of the retry budgets of waypoints: for how long a request counts, and the least that
// they can be told to allow. Less is taken for nothing said.
const (
	profileTTL     = 10 * time.Second
	leastRatio     = 0.01
	leastPerSecond = 1
)

// problems are what a budget says and waypoints do not do; none of nil.
func (b *RetryBudget) problems() (all []string) {
	if b == nil {
		return nil
	}
	if ttl, err := time.ParseDuration(b.TTL); b.TTL != "" && (err != nil || ttl != profileTTL) {
		all = append(all, fmt.Sprintf("spec.retryBudget.ttl: %q is not supported: a request counts for %v", b.TTL, profileTTL))
	}
	if b.RetryRatio < leastRatio {
		all = append(all, fmt.Sprintf("spec.retryBudget.retryRatio: less than %v is not supported: 0.2 is taken", leastRatio))
	}
	if b.MinRetriesPerSecond < leastPerSecond {
		all = append(all, fmt.Sprintf("spec.retryBudget.minRetriesPerSecond: less than %d is not supported: 10 is taken", leastPerSecond))
	}
	return all
}

// profile is the profile in the form that is translated.
func (p *ServiceProfile) profile() *routes.Profile {
	out := &routes.Profile{Namespace: p.Namespace, Name: p.Name}
	if b := p.Spec.RetryBudget; b != nil {
		out.RetryPercent, out.RetriesPerSec = uint32(max(0, min(100, b.RetryRatio*100))), b.MinRetriesPerSecond
	}
	for _, r := range p.Spec.Routes {
		route := routes.ProfileRoute{Name: r.Name, Condition: conditionOf(r.Condition), Retryable: r.IsRetryable}
		if d, err := time.ParseDuration(r.Timeout); err == nil && d > 0 {
			route.Timeout = durationpb.New(d)
		}
		out.Routes = append(out.Routes, route)
	}
	return out
}

// conditionOf copies a condition; nil stays nil.
func conditionOf(c *RequestCondition) *routes.ProfileCondition {
	if c == nil {
		return nil
	}
	out := &routes.ProfileCondition{PathRegex: c.PathRegex, Method: c.Method, Not: conditionOf(c.Not)}
	for i := range c.All {
		out.All = append(out.All, *conditionOf(&c.All[i]))
	}
	for i := range c.Any {
		out.Any = append(out.Any, *conditionOf(&c.Any[i]))
	}
	return out
}

// serviceProfile checks a ServiceProfile.
func (c *checker) serviceProfile(p *ServiceProfile) {
	for i, r := range p.Spec.Routes {
		if r.Timeout != "" {
			if d, err := time.ParseDuration(r.Timeout); err != nil || d < 0 {
				c.add(fmt.Sprintf("spec.routes[%d].timeout", i), "%q is no duration", r.Timeout)
			}
		}
	}
}

// fromServiceProfile says what becomes of a ServiceProfile.
func (m *Model) fromServiceProfile(p *ServiceProfile) []Condition {
	var problems, notes []string
	for _, x := range routes.FromProfile(p.profile(), "").Problems {
		problems = append(problems, x.String())
	}
	for i, r := range p.Spec.Routes {
		if len(r.ResponseClasses) > 0 {
			problems = append(problems, fmt.Sprintf("spec.routes[%d].responseClasses: not supported: 5xx are failures", i))
		}
	}
	problems = append(problems, p.Spec.RetryBudget.problems()...)
	if len(p.Spec.DstOverrides) > 0 {
		problems = append(problems, "spec.dstOverrides: not supported: write an HTTPRoute")
	}
	if len(p.Spec.OpaquePorts) > 0 {
		problems = append(problems, "spec.opaquePorts: not supported: say appProtocol: tcp at the port of the Service")
	}
	why := m.withoutEffect("metadata.name", p.Namespace, p.Name, func(service Key, full string) string {
		switch {
		case m.hasRoutes(service):
			return "the service has routes of the Gateway API, which come first"
		case m.virtualOf(service, full) != nil:
			return "the service has a VirtualService, which comes first"
		}
		all := m.profilesOf(service)
		if first := firstOf(all); first != p && first != nil {
			return fmt.Sprintf("ServiceProfile %s/%s is older or nearer, and comes first", first.Namespace, first.Name)
		}
		notes = othersOf(KindServiceProfile, all)
		return ""
	})
	if why != "" {
		problems = append(problems, why)
	}
	return []Condition{outcome(why == "", problems, notes)}
}
