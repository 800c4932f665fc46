// Package plugin is called for each pod: tell the agent, wait for its answer,
// touch nothing else.
//
// It is the last of a chain: the plugins before it have given the pod its
// interface and addresses, and their result is passed on unchanged. ADD fails
// when the agent cannot answer: a pod that should be in the mesh must not start
// outside of it, and the runtime tries again. DEL tells the agent and never
// stands in the way of a pod's end.
package plugin
