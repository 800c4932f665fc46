package gateways

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/istiod-lite/kube"
)

// Keys of a ConfigMap of parameters, as in the ambient ecosystem.
const (
	keyDeployment = "deployment"
	keyService    = "service"
	keyAccount    = "serviceAccount"
	keyAutoscaler = "horizontalPodAutoscaler"
	keyBudget     = "podDisruptionBudget"
)

// checkKeys refuses keys that mean nothing.
func checkKeys(overlays []map[string]string) error {
	for _, overlay := range overlays {
		for _, key := range slices.Sorted(maps.Keys(overlay)) {
			switch key {
			case keyDeployment, keyService, keyAccount, keyAutoscaler, keyBudget:
			default:
				return fmt.Errorf("parameters: key %q: want %s, %s, %s, %s or %s", key, keyDeployment, keyService, keyAccount, keyAutoscaler, keyBudget)
			}
		}
	}
	return nil
}

// lay lays the part of an overlay that is for an object over it.
func lay(o kube.Made, overlay map[string]string) (kube.Made, error) {
	switch o := o.(type) {
	case *appsv1.Deployment:
		out, err := merge(keyDeployment, overlay, o)
		if err != nil {
			return nil, err
		}
		out.Spec.Selector = o.Spec.Selector
		out.Spec.Template.Labels = withLabels(out.Spec.Template.Labels, o.Spec.Template.Labels)
		return out, checkPod(&out.Spec.Template.Spec, o.Spec.Template.Spec.ServiceAccountName)
	case *corev1.Service:
		out, err := merge(keyService, overlay, o)
		if err != nil {
			return nil, err
		}
		out.Spec.Selector = o.Spec.Selector
		return out, nil
	case *corev1.ServiceAccount:
		return merge(keyAccount, overlay, o)
	case *autoscalingv2.HorizontalPodAutoscaler:
		out, err := merge(keyAutoscaler, overlay, o)
		if err != nil {
			return nil, err
		}
		out.Spec.ScaleTargetRef = o.Spec.ScaleTargetRef
		return out, nil
	case *policyv1.PodDisruptionBudget:
		out, err := merge(keyBudget, overlay, o)
		if err != nil {
			return nil, err
		}
		out.Spec.Selector = o.Spec.Selector
		return out, nil
	}
	return o, nil
}

// merge lays a text over an object, by the rules of strategic merge. Who the object
// is, and whose, stays.
func merge[T any, P interface {
	*T
	kube.Made
}](key string, overlay map[string]string, o P) (P, error) {
	text, ok := overlay[key]
	if !ok {
		return o, nil
	}
	wrong := func(err error) (P, error) { return nil, fmt.Errorf("parameters: %s: %w", key, err) }
	patch, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return wrong(err)
	}
	before, err := json.Marshal(o)
	if err != nil {
		return wrong(err)
	}
	merged, err := strategicpatch.StrategicMergePatch(before, patch, P(new(T)))
	if err != nil {
		return wrong(err)
	}
	out := P(new(T))
	if err := yaml.UnmarshalStrict(merged, out); err != nil {
		return wrong(err)
	}
	out.SetName(o.GetName())
	out.SetNamespace(o.GetNamespace())
	out.SetOwnerReferences(o.GetOwnerReferences())
	out.SetLabels(withLabels(out.GetLabels(), o.GetLabels()))
	return out, nil
}

// withLabels puts those of ours over labels, of which an overlay may have left none.
func withLabels(labels, ours map[string]string) map[string]string {
	if labels == nil {
		labels = make(map[string]string, len(ours))
	}
	maps.Copy(labels, ours)
	return labels
}

// checkPod refuses what would give whoever may write a Gateway and a ConfigMap more
// than a waypoint needs: the control plane makes the pods, so that nobody else asks
// whether they may.
func checkPod(p *corev1.PodSpec, account string) error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("parameters: deployment: spec.template.spec."+format+": a waypoint must not have it", args...)
	}
	switch {
	case p.HostNetwork || p.HostPID || p.HostIPC:
		return no("hostNetwork, hostPID or hostIPC")
	case p.ServiceAccountName != account || p.DeprecatedServiceAccount != "" && p.DeprecatedServiceAccount != account:
		return no("serviceAccountName %q", p.ServiceAccountName)
	case p.AutomountServiceAccountToken == nil || *p.AutomountServiceAccountToken:
		return no("automountServiceAccountToken")
	case p.SecurityContext == nil || p.SecurityContext.RunAsNonRoot == nil || !*p.SecurityContext.RunAsNonRoot:
		return no("securityContext without runAsNonRoot")
	case len(p.EphemeralContainers) > 0:
		return no("ephemeralContainers")
	}
	for _, v := range p.Volumes {
		if s := v.VolumeSource; s.EmptyDir == nil && s.ConfigMap == nil && s.DownwardAPI == nil && s.Projected == nil {
			return no("volumes[%s]: a volume that is neither emptyDir, configMap, downwardAPI nor projected", v.Name)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.Secret != nil || s.ServiceAccountToken != nil && v.Name != "token" {
				return no("volumes[%s]: a Secret or token", v.Name)
			}
		}
	}
	for _, c := range slices.Concat(p.InitContainers, p.Containers) {
		if why := checkContainer(&c); why != "" {
			return no("containers[%s].%s", c.Name, why)
		}
	}
	return nil
}

// checkContainer says what a container has that it must not have; "" when nothing.
func checkContainer(c *corev1.Container) string {
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			return "env[" + e.Name + "] from a Secret"
		}
	}
	for _, e := range c.EnvFrom {
		if e.SecretRef != nil {
			return "envFrom a Secret"
		}
	}
	for _, p := range c.Ports {
		if p.HostPort != 0 {
			return "ports: a hostPort"
		}
	}
	s := c.SecurityContext
	switch {
	case s == nil:
		return "securityContext: missing"
	case s.Privileged != nil && *s.Privileged:
		return "securityContext.privileged"
	case s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation:
		return "securityContext.allowPrivilegeEscalation"
	case s.RunAsNonRoot != nil && !*s.RunAsNonRoot, s.RunAsUser != nil && *s.RunAsUser == 0:
		return "securityContext: root"
	case s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") || len(s.Capabilities.Add) > 0:
		return "securityContext.capabilities"
	case s.ProcMount != nil && !strings.EqualFold(string(*s.ProcMount), string(corev1.DefaultProcMount)):
		return "securityContext.procMount"
	}
	return ""
}
