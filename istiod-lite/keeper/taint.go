package keeper

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// isAgent reports whether a pod is a CNI agent of this installation.
func (k *Keeper) isAgent(pod *corev1.Pod) bool {
	return pod.Namespace == k.cfg.Namespace && pod.Labels[k.cfg.AgentLabel] == k.cfg.AgentValue
}

// noticePod looks at the node of an agent that is Ready.
func (k *Keeper) noticePod(e model.Event) {
	pod, ok := e.Object.(*corev1.Pod)
	if k.cfg.Taint == "" || !ok || !k.isAgent(pod) || !isReady(pod) {
		return
	}
	k.enqueue(model.Key{Kind: model.KindNode, Name: pod.Spec.NodeName})
}

// isReady reports whether the kubelet says so, and nobody has asked the pod to
// end.
func isReady(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// keepTaint removes the taint of a node whose agent is Ready.
func (k *Keeper) keepTaint(ctx context.Context, name string) error {
	key := model.Key{Kind: model.KindNode, Name: name}
	o, _ := k.deps.World.Look(key)
	node, ok := o.(*corev1.Node)
	if k.cfg.Taint == "" || !ok || !hasTaint(node, k.cfg.Taint) || !k.agentReady(name) {
		return nil
	}
	removed, err := k.deps.Client.RemoveTaint(ctx, name, k.cfg.Taint)
	if err != nil {
		return errorOf("taint", key, err)
	}
	if removed {
		k.wrote(key)
	}
	return nil
}

// hasTaint reports whether a node has a taint of that key.
func hasTaint(node *corev1.Node, taint string) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taint })
}

// agentReady reports whether an agent on the node is Ready.
func (k *Keeper) agentReady(node string) bool {
	return slices.ContainsFunc(k.deps.World.PodsOn(node), func(p *corev1.Pod) bool { return k.isAgent(p) && isReady(p) })
}
