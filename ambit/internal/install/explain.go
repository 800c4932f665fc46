package install

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ExplainPod says in words why a pod is not ready and what to try; empty when it
// is. warning is the newest event about it, which may be empty.
func ExplainPod(pod *corev1.Pod, warning string) string {
	if pod.DeletionTimestamp != nil {
		return "is ending"
	}
	for _, c := range pod.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue:
			return ""
		case c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse:
			return "fits on no node: " + c.Message
		}
	}
	for _, s := range pod.Status.ContainerStatuses {
		if text := explainContainer(s); text != "" {
			return text
		}
	}
	if warning != "" {
		return explainWarning(warning)
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Running != nil {
			return "runs, and is not ready yet"
		}
	}
	return "is being created"
}

// explainContainer says what a container waits for, or how it ended.
func explainContainer(s corev1.ContainerStatus) string {
	if w := s.State.Waiting; w != nil {
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
			return fmt.Sprintf("has no image %s: is it in that registry, or loaded on the node? --set image.repository=... and image.tag=... name another", s.Image)
		case "CrashLoopBackOff":
			return fmt.Sprintf("crashed %d times%s", s.RestartCount, ended(s.LastTerminationState.Terminated))
		case "ContainerCreating", "PodInitializing":
			return ""
		default:
			return strings.TrimSuffix(fmt.Sprintf("%s: %s", w.Reason, w.Message), ": ")
		}
	}
	if s.State.Terminated != nil {
		return "ended" + ended(s.State.Terminated)
	}
	return ""
}

// ended says how a container ended.
func ended(t *corev1.ContainerStateTerminated) string {
	switch {
	case t == nil:
		return ""
	case t.Reason == "OOMKilled":
		return ", the last time for want of memory: raise its limit"
	}
	return fmt.Sprintf(", the last time with exit code %d", t.ExitCode)
}

// explainWarning adds what to try to a warning that is known.
func explainWarning(text string) string {
	switch {
	case strings.Contains(text, "violates PodSecurity"):
		return text + "; the installation namespace has to let privileged pods in: label it pod-security.kubernetes.io/enforce=privileged"
	case strings.Contains(text, "istio-ca-root-cert") && strings.Contains(text, "not found"):
		return "waits for the ConfigMap istio-ca-root-cert, which istiod-lite writes: is istiod-lite running?"
	case strings.Contains(text, "Readiness probe failed"):
		text = strings.TrimSpace(strings.TrimPrefix(text, "Readiness probe failed:"))
		if strings.HasPrefix(text, "HTTP probe failed with statuscode") {
			return "runs, and is not ready yet"
		}
		return "runs, and is not ready: " + text
	}
	return text
}
