package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/cni/agent"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// maxEvents is how many events wait to be written; more are dropped, for the log
// has them too.
const maxEvents = 100

// Reporter says back to the cluster what became of pods. Its methods but Run only
// remember.
type Reporter struct {
	// Set by NewReporter, then only read.
	client kubernetes.Interface
	node   string
	log    *zap.Logger
	kick   chan struct{} // of one: there is something to write

	// mu guards the fields below.
	mu      sync.Mutex
	marks   map[types.UID]mark // to be written
	events  []*corev1.Event    // to be written, in their order
	writing int                // marks taken from the map and not written yet
}

// mark is the annotation of one pod.
type mark struct {
	namespace, name string
	value           agent.Mark
	tries           int
}

var _ agent.Reporter = (*Reporter)(nil)

// NewReporter makes a reporter of the agent of node. It writes nothing yet.
func NewReporter(client kubernetes.Interface, node string, log *zap.Logger) *Reporter {
	return &Reporter{client: client, node: node, log: log.Named("report"), kick: make(chan struct{}, 1), marks: map[types.UID]mark{}}
}

// Mark has the pod's annotation become value.
func (r *Reporter) Mark(uid, namespace, name string, value agent.Mark) {
	r.mu.Lock()
	r.marks[types.UID(uid)] = mark{namespace: namespace, name: name, value: value}
	r.mu.Unlock()
	r.wake()
}

// Event has a warning about the pod written, for people who look at it.
func (r *Reporter) Event(uid, namespace, name, reason, message string) {
	now := metav1.Now()
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: name + ".", Namespace: namespace},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: namespace, Name: name, UID: types.UID(uid)},
		Reason:         reason, Message: message, Type: corev1.EventTypeWarning,
		Source:         corev1.EventSource{Component: "ambit-cni-agent", Host: r.node},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
		ReportingController: "ambit.dev/cni-agent", ReportingInstance: r.node,
	}
	r.mu.Lock()
	if len(r.events) < maxEvents {
		r.events = append(r.events, e)
	}
	r.mu.Unlock()
	r.wake()
}

// wake has Run look.
func (r *Reporter) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	retry := lifecycle.Backoff{Initial: 50 * time.Millisecond, Max: 5 * time.Second}
	for {
		wait := time.Duration(1 << 62)
		if r.write(ctx) {
			retry.Reset()
		} else {
			wait = retry.Next()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Flush writes what waits until nothing does, or ctx ends.
func (r *Reporter) Flush(ctx context.Context) error {
	for {
		if r.write(ctx) {
			r.mu.Lock()
			left := len(r.marks) + r.writing
			r.mu.Unlock()
			if left == 0 {
				return nil
			}
		}
		if err := lifecycle.Sleep(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("annotations of pods are left: %w", err)
		}
	}
}

// write writes everything once, and says whether all of it is written.
func (r *Reporter) write(ctx context.Context) (all bool) {
	r.mu.Lock()
	marks, events := r.marks, r.events
	r.marks, r.events = map[types.UID]mark{}, nil
	r.writing += len(marks)
	r.mu.Unlock()
	all = true
	for uid, m := range marks {
		err := r.patch(ctx, uid, m)
		r.mu.Lock()
		r.writing--
		if _, newer := r.marks[uid]; err != nil && !newer {
			m.tries++
			r.marks[uid] = m
			all = false
		}
		r.mu.Unlock()
		if err != nil && m.tries == 1 {
			r.log.Warn("the mark of a pod cannot be written, and is tried again", zap.String("pod", m.namespace+"/"+m.name), zap.Error(err))
		}
	}
	for _, e := range events {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		if _, err := r.client.CoreV1().Events(e.Namespace).Create(ctx, e, metav1.CreateOptions{}); err != nil {
			r.log.Warn("an event is lost", zap.String("message", e.Message), zap.Error(err))
		}
		cancel()
	}
	return all
}

// patch writes one mark. A pod that is gone, or another by now, needs none.
func (r *Reporter) patch(ctx context.Context, uid types.UID, m mark) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var value any
	if m.value != agent.Unmarked {
		value = string(m.value)
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": uid, "annotations": map[string]any{agent.MarkAnnotation: value},
	}})
	if err != nil {
		return err
	}
	_, err = r.client.CoreV1().Pods(m.namespace).Patch(ctx, m.name, types.MergePatchType, body, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) { // a uid does not change
		return nil
	}
	return err
}
