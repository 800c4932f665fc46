// Package cni brings pods of a node into the mesh: the agent with its sockets,
// its source of pods, and its pages for people.
//
// The plugin that the container runtime calls is in cni/plugin, and asks the
// agent through the socket that package event describes.
package cni
