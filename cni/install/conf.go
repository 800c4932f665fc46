package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// PluginType is the type of our entry, and the name of the plugin's program.
const PluginType = "ambit-cni"

// foreignType is the plugin of another ambient installation: two of them would
// capture the same pods.
const foreignType = "istio-cni"

// extensions are those of files that runtimes read.
var extensions = []string{".conf", ".conflist", ".json"}

// listExtension is that of a list of plugins; any other file holds one plugin.
const listExtension = ".conflist"

// conf is one network configuration: a list of plugins, or a single plugin that
// stands for a list of one.
type conf struct {
	list    map[string]json.RawMessage // all keys but plugins
	plugins []json.RawMessage
	types   []string // of plugins
}

// parseConf reads a file as a runtime does, and says why a runtime would refuse
// it.
func parseConf(name string, raw []byte) (*conf, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(raw, &top); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c := &conf{list: map[string]json.RawMessage{}}
	if filepath.Ext(name) == listExtension {
		if err := json.Unmarshal(top["plugins"], &c.plugins); err != nil {
			return nil, fmt.Errorf("%s: plugins: %w", name, err)
		}
		delete(top, "plugins")
		c.list = top
	} else {
		// What tells a list from its one plugin goes up into the list, and stays
		// below: plugins of old expect it there.
		for _, key := range []string{"name", "cniVersion"} {
			if value, ok := top[key]; ok {
				c.list[key] = value
			}
		}
		c.plugins = []json.RawMessage{raw}
	}
	if len(c.plugins) == 0 {
		return nil, fmt.Errorf("%s: it has no plugins", name)
	}
	var network string
	if err := json.Unmarshal(c.list["name"], &network); err != nil || network == "" {
		return nil, fmt.Errorf("%s: the network has no name", name)
	}
	for i, p := range c.plugins {
		var entry struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(p, &entry); err != nil {
			return nil, fmt.Errorf("%s: plugin %d: %w", name, i, err)
		}
		if entry.Type == "" {
			return nil, fmt.Errorf("%s: plugin %d has no type", name, i)
		}
		c.types = append(c.types, entry.Type)
	}
	return c, nil
}

// ours says whether our entry is in the list.
func (c *conf) ours() bool { return slices.Contains(c.types, PluginType) }

// foreign says whether the entry of another ambient installation is in the list.
func (c *conf) foreign() bool { return slices.Contains(c.types, foreignType) }

// without is the list without our entry.
func (c *conf) without() *conf {
	out := &conf{list: c.list}
	for i, p := range c.plugins {
		if c.types[i] != PluginType {
			out.plugins, out.types = append(out.plugins, p), append(out.types, c.types[i])
		}
	}
	return out
}

// with is the list with entry at its end.
func (c *conf) with(entry json.RawMessage) *conf {
	out := c.without()
	out.plugins, out.types = append(out.plugins, entry), append(out.types, PluginType)
	return out
}

// render is the list as a file.
func (c *conf) render() ([]byte, error) {
	if len(c.plugins) == 0 {
		return nil, errors.New("nothing is left in the list of plugins")
	}
	top := map[string]any{"plugins": c.plugins}
	for key, value := range c.list {
		top[key] = value
	}
	raw, err := json.MarshalIndent(top, "", "  ")
	return append(raw, '\n'), err
}

// entry is what stands in the list for our plugin.
type entry struct {
	Type              string   `json:"type"`
	AgentRunDir       string   `json:"cni_agent_run_dir"`
	ExcludeNamespaces []string `json:"exclude_namespaces,omitempty"`
	PodNamespace      string   `json:"pod_namespace,omitempty"`
}
