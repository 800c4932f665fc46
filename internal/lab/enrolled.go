package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
)

// EnrolledPod is a pod of a standing lab, and what the agent of its node says
// of it now.
type EnrolledPod struct {
	PodRecord
	State    string // of the agent's states; "unknown" when the agent does not know the pod, or does not answer
	Reason   string // why it is in that state
	Identity string // as which the mesh knows it; empty outside the mesh
}

// agentPatience bounds how long an agent is waited for.
const agentPatience = 5 * time.Second

// unknownState is what is said of a pod that no agent tells of.
const unknownState = "unknown"

// Enrolled asks the agents of a standing lab about its pods. The list is whole
// even when an agent does not answer; the error then names it.
func Enrolled(ctx context.Context, s State) ([]EnrolledPod, error) {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	known := map[string]event.Pod{} // by uid
	silent := map[string]string{}   // node to why
	var errs []error
	for _, n := range s.Nodes {
		pods, err := (&Node{Name: n.Name, Dir: n.Dir}).agentPods(ctx)
		if err != nil {
			errs = append(errs, err)
			silent[n.Name] = "the agent does not answer"
		}
		for _, p := range pods {
			known[p.UID] = p
		}
	}
	var all []EnrolledPod
	for _, p := range s.Pods {
		e := EnrolledPod{PodRecord: p, State: unknownState, Reason: "the agent does not know it"}
		if why, ok := silent[p.Node]; ok {
			e.Reason = why
		}
		if a, ok := known[p.UID]; ok {
			e.State, e.Reason = string(a.State), a.Reason
			if a.State == event.Enrolled || a.State == event.Pending {
				e.Identity = fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", trustDomain, a.Namespace, a.ServiceAccount)
			}
		}
		all = append(all, e)
	}
	return all, errors.Join(errs...)
}
