package plugin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// Config is our entry in the list of plugins. Keys that other ambient
// installations use and we do not need are accepted and ignored.
type Config struct {
	types.PluginConf

	// AgentRunDir is where the agent's socket is. Empty means
	// /var/run/ambit-cni.
	AgentRunDir string `json:"cni_agent_run_dir"`
	// ExcludeNamespaces are those whose pods are never asked about.
	ExcludeNamespaces []string `json:"exclude_namespaces"`
	// PodNamespace is the namespace of the agent itself; its own pods must be
	// able to start without it.
	PodNamespace string `json:"pod_namespace"`
}

// agentPods are the name prefixes of the agent's own pods.
var agentPods = []string{"istio-cni-node-", "ambit-cni-"}

// parseConfig reads what the runtime passes on standard input.
func parseConfig(stdin []byte) (*Config, error) {
	c := &Config{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, fail(types.ErrDecodingFailure, "network configuration: not valid JSON for ambit-cni", err)
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, fail(types.ErrDecodingFailure, "network configuration: prevResult", err)
	}
	return c, nil
}

// socket is the path of the agent's socket.
func (c *Config) socket() string {
	return filepath.Join(cmp.Or(c.AgentRunDir, event.RunDir), event.Socket)
}

// skips reports why the pod is none of ours, or "".
func (c *Config) skips(p pod) string {
	switch {
	case p.name == "":
		return "not a Kubernetes pod"
	case slices.Contains(c.ExcludeNamespaces, p.namespace):
		return "its namespace is excluded"
	case p.namespace == c.PodNamespace && slices.ContainsFunc(agentPods, func(s string) bool { return strings.HasPrefix(p.name, s) }):
		return "it is the agent's own pod"
	}
	return ""
}

// result is what the plugins before ours have made.
func (c *Config) result() (*current.Result, error) {
	if c.PrevResult == nil {
		return nil, fail(types.ErrInvalidNetworkConfig,
			"ambit-cni has no prevResult: it must come after the plugin that makes the pod's interface",
			fmt.Errorf("move the entry of type %q to the end of the list in network %q", c.Type, c.Name))
	}
	r, err := current.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, fail(types.ErrDecodingFailure, "network configuration: prevResult", err)
	}
	return r, nil
}

// pod is what CNI_ARGS say about the pod.
type pod struct{ name, namespace, uid string }

// podArgs are the keys of CNI_ARGS that runtimes of Kubernetes set.
type podArgs struct {
	types.CommonArgs

	K8S_POD_NAME      types.UnmarshallableString
	K8S_POD_NAMESPACE types.UnmarshallableString
	K8S_POD_UID       types.UnmarshallableString
}

// parsePod reads CNI_ARGS. Keys we do not know are ignored.
func parsePod(args *skel.CmdArgs) (pod, error) {
	a := podArgs{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args.Args, &a); err != nil {
		return pod{}, fail(types.ErrInvalidEnvironmentVariables, "CNI_ARGS cannot be read", err)
	}
	return pod{string(a.K8S_POD_NAME), string(a.K8S_POD_NAMESPACE), string(a.K8S_POD_UID)}, nil
}

// fail makes the error that a runtime shows: msg is what, cause is why.
func fail(code uint, msg string, cause error) *types.Error {
	return types.NewError(code, msg, cause.Error())
}
