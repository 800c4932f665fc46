package install

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestExplainPod(t *testing.T) {
	waiting := func(reason, message string) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			Image: "ambit/ztunnel:v1", RestartCount: 4, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2}},
		}}}
	}
	killed := waiting("CrashLoopBackOff", "")
	killed.ContainerStatuses[0].LastTerminationState.Terminated.Reason = "OOMKilled"
	runs := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	condition := func(kind corev1.PodConditionType, value corev1.ConditionStatus, message string) corev1.PodStatus {
		return corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: kind, Status: value, Message: message}}}
	}
	now := metav1.Now()
	tests := []struct {
		name    string
		pod     corev1.Pod
		warning string
		want    string // empty: nothing is wrong
	}{
		{"ready", corev1.Pod{Status: condition(corev1.PodReady, corev1.ConditionTrue, "")}, "old news", ""},
		{"no node for it", corev1.Pod{Status: condition(corev1.PodScheduled, corev1.ConditionFalse, "0/2 nodes are available")}, "", "fits on no node: 0/2"},
		{"no image", corev1.Pod{Status: waiting("ImagePullBackOff", "")}, "", "--set image.repository"},
		{"it crashes", corev1.Pod{Status: waiting("CrashLoopBackOff", "")}, "", "crashed 4 times, the last time with exit code 2"},
		{"it has too little memory", corev1.Pod{Status: killed}, "", "raise its limit"},
		{"something else", corev1.Pod{Status: waiting("CreateContainerConfigError", "no such key")}, "", "CreateContainerConfigError: no such key"},
		{"an event says it", corev1.Pod{Status: waiting("ContainerCreating", "")}, `MountVolume.SetUp failed: configmap "istio-ca-root-cert" not found`, "is istiod-lite running?"},
		{"not ready, by its own word", corev1.Pod{Status: runs}, "Readiness probe failed: no snapshot yet", "runs, and is not ready: no snapshot yet"},
		{"not ready", corev1.Pod{Status: runs}, "", "runs, and is not ready yet"},
		{"the namespace refuses it", corev1.Pod{}, "violates PodSecurity \"restricted\"", "enforce=privileged"},
		{"nothing is known", corev1.Pod{}, "", "is being created"},
		{"it goes", corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}, "", "is ending"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ExplainPod(&tt.pod, tt.warning)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("ExplainPod = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLastWarning(t *testing.T) {
	at := func(minute int) metav1.Time { return metav1.NewTime(time.Unix(int64(60*minute), 0)) }
	event := func(kind, name, eventType, text string, minute int) corev1.Event {
		return corev1.Event{InvolvedObject: corev1.ObjectReference{Kind: kind, Name: name}, Type: eventType, Message: text, LastTimestamp: at(minute)}
	}
	events := []corev1.Event{
		event("Pod", "a", corev1.EventTypeWarning, "newest", 3),
		event("Pod", "a", corev1.EventTypeWarning, "older", 2),
		event("Pod", "a", corev1.EventTypeNormal, "not a warning", 4),
		event("ReplicaSet", "istiod-lite-123", corev1.EventTypeWarning, "of its ReplicaSet", 1),
		event("ReplicaSet", "istiod-liter-123", corev1.EventTypeWarning, "of another", 5),
	}
	for name, want := range map[string]string{"a": "newest", "istiod-lite": "of its ReplicaSet", "b": ""} {
		if got := lastWarning(events, name); got != want {
			t.Errorf("lastWarning(%s) = %q, want %q", name, got, want)
		}
	}
}

func TestRollout(t *testing.T) {
	tests := []struct {
		rollout Rollout
		done    bool
		text    string
	}{
		{Rollout{Part{"DaemonSet", "ztunnel"}, 3, 3, 3, true, nil}, true, "ztunnel 3/3 ready"},
		{Rollout{Part{"DaemonSet", "ztunnel"}, 3, 1, 3, true, nil}, false, "ztunnel 3/3 ready, 1 of this version"},
		{Rollout{Part{"DaemonSet", "ztunnel"}, 3, 3, 2, true, nil}, false, "ztunnel 2/3 ready"},
		{Rollout{Part{"DaemonSet", "ztunnel"}, 3, 3, 3, false, nil}, false, "ztunnel 3/3 ready"},
		{Rollout{Part{"DaemonSet", "ztunnel"}, 0, 0, 0, true, nil}, true, "ztunnel 0/0 ready"},
	}
	for _, tt := range tests {
		if tt.rollout.Done() != tt.done || tt.rollout.String() != tt.text {
			t.Errorf("%+v: %v, %q; want %v, %q", tt.rollout, tt.rollout.Done(), tt.rollout, tt.done, tt.text)
		}
	}
}

func FuzzParseInventory(f *testing.F) {
	f.Add("v1", "a: {b: 1}", "v1 Service istio-system istiod\nrbac.authorization.k8s.io/v1 ClusterRole - istiod-lite\n")
	f.Add("", "[", "x")
	f.Fuzz(func(t *testing.T, version, values, objects string) {
		inv, err := parseInventory(map[string]string{"version": version, "values": values, "objects": objects})
		if err != nil {
			return
		}
		text, err := inv.text()
		if err != nil {
			return // values that are no YAML again, such as NaN as a key
		}
		again, err := parseInventory(text)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%v", err, text)
		}
		if len(again.Objects) != len(inv.Objects) {
			t.Fatalf("%v became %v", inv.Objects, again.Objects)
		}
		for i, r := range again.Objects {
			if r != inv.Objects[i] || r.Kind == "" || r.Name == "" {
				t.Fatalf("%+v became %+v", inv.Objects[i], r)
			}
		}
	})
}
