package xds

import (
	"strings"
	"testing"
)

func TestNewNode(t *testing.T) {
	n, err := NewNode(NodeConfig{
		InstanceIP: "10.0.0.1", PodName: "ztunnel-x", PodNamespace: "istio-system", NodeName: "node-1",
		Env: []string{"ISTIO_META_CLUSTER_ID=c1", "ISTIO_METAJSON_LABELS={\"a\":\"b\"}", "ISTIO_META_EMPTY=", "ISTIO_META_=x", "PATH=/bin", "ISTIO_META_EQ=a=b", "no-equals"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "ztunnel~10.0.0.1~ztunnel-x.istio-system~istio-system.svc.cluster.local"; n.Id != want {
		t.Errorf("id = %s, want %s", n.Id, want)
	}
	meta := n.GetMetadata().AsMap()
	for key, want := range map[string]any{
		"NAME": "ztunnel-x", "NAMESPACE": "istio-system", "INSTANCE_IPS": "10.0.0.1", "NODE_NAME": "node-1",
		"CLUSTER_ID": "c1", "EMPTY": "", "EQ": "a=b",
	} {
		if meta[key] != want {
			t.Errorf("metadata %s = %v, want %v", key, meta[key], want)
		}
	}
	if labels, _ := meta["LABELS"].(map[string]any); labels["a"] != "b" {
		t.Errorf("metadata LABELS = %v, want what the JSON says", meta["LABELS"])
	}
	if len(meta) != 8 {
		t.Errorf("metadata = %v, want 8 entries", meta)
	}
	if _, err := NewNode(NodeConfig{Env: []string{"ISTIO_METAJSON_X={"}}); err == nil || !strings.Contains(err.Error(), "ISTIO_METAJSON_X") {
		t.Errorf("error = %v, want one that names the variable", err)
	}
	if _, err := NewNode(NodeConfig{PodName: "\xff"}); err == nil {
		t.Error("a name that is not UTF-8 was taken")
	}
}
