package xds

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// metaPrefix marks environment variables that become metadata as text.
	metaPrefix = "ISTIO_META_"
	// metaJSONPrefix marks those that become metadata as JSON.
	metaJSONPrefix = "ISTIO_METAJSON_"
)

// NodeConfig is what a proxy says about itself to the control plane.
type NodeConfig struct {
	Type         string // empty means "ztunnel"
	InstanceIP   string
	PodName      string
	PodNamespace string // must be that of the caller's token
	NodeName     string
	Domain       string // empty means "cluster.local"
	// Env is the environment as "NAME=value"; ISTIO_META_X and ISTIO_METAJSON_X
	// become metadata X.
	Env []string
}

// NewNode makes the node message. An ISTIO_METAJSON_ variable that is not JSON
// is an error.
func NewNode(cfg NodeConfig) (*corev3.Node, error) {
	meta := map[string]any{
		"NAME":         cfg.PodName,
		"NAMESPACE":    cfg.PodNamespace,
		"INSTANCE_IPS": cfg.InstanceIP,
		"NODE_NAME":    cfg.NodeName,
	}
	for _, entry := range cfg.Env {
		name, value, _ := strings.Cut(entry, "=")
		if key, ok := strings.CutPrefix(name, metaJSONPrefix); ok && key != "" {
			var parsed any
			if err := json.Unmarshal([]byte(value), &parsed); err != nil {
				return nil, fmt.Errorf("environment variable %s: %w", name, err)
			}
			meta[key] = parsed
		} else if key, ok := strings.CutPrefix(name, metaPrefix); ok && key != "" {
			meta[key] = value
		}
	}
	metadata, err := structpb.NewStruct(meta)
	if err != nil {
		return nil, fmt.Errorf("node metadata: %w", err)
	}
	return &corev3.Node{
		Id: fmt.Sprintf("%s~%s~%s.%s~%s.svc.%s", cmp.Or(cfg.Type, "ztunnel"), cfg.InstanceIP,
			cfg.PodName, cfg.PodNamespace, cfg.PodNamespace, cmp.Or(cfg.Domain, "cluster.local")),
		Metadata: metadata,
	}, nil
}
