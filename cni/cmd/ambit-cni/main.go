// Command ambit-cni is the CNI plugin that has pods enrolled in the mesh. The
// container runtime calls it as the last of a chain; see package plugin.
package main

import (
	"context"

	"github.com/ambit-mesh/ambit/cni/plugin"
	"github.com/containernetworking/cni/pkg/skel"
)

// version is set by the build.
var version = "dev"

func main() {
	skel.PluginMainFuncs(plugin.Funcs(context.Background()), plugin.Versions, "ambit-cni "+version+": enrols pods in the mesh, as the last of a chain of CNI plugins")
}
