package model_test

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/istiod-lite/files"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mustEvents decodes manifests as the directory source does.
func mustEvents(t testing.TB, manifests string) []model.Event {
	t.Helper()
	events, err := files.Decode("test.yaml", []byte(manifests))
	if err != nil {
		t.Fatalf("%v in\n%s", err, manifests)
	}
	return events
}

// mustModel is a model of manifests.
func mustModel(t testing.TB, cfg model.Config, manifests ...string) *model.Model {
	t.Helper()
	m := model.New(cfg)
	m.Apply(mustEvents(t, strings.Join(manifests, "\n---\n"))...)
	return m
}

// lookup is the resource of a name; nil if there is none.
func lookup(m *model.Model, name string) *model.Resource {
	for _, r := range m.Resources() {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// mustWorkload is the workload of a pod.
func mustWorkload(t testing.TB, m *model.Model, pod string) *workloadapi.Workload {
	t.Helper()
	return mustAddress(t, m, "Kubernetes//Pod/"+pod).GetWorkload()
}

// mustService is the service of a key.
func mustService(t testing.TB, m *model.Model, key string) *workloadapi.Service {
	t.Helper()
	return mustAddress(t, m, key).GetService()
}

// mustAddress is the address of a name.
func mustAddress(t testing.TB, m *model.Model, name string) *workloadapi.Address {
	t.Helper()
	r := lookup(m, name)
	if r == nil {
		t.Fatalf("no resource %s in %v", name, names(m))
	}
	a := &workloadapi.Address{}
	if err := r.Wire.Resource.UnmarshalTo(a); err != nil {
		t.Fatal(err)
	}
	return a
}

// mustPolicy is the policy of a name.
func mustPolicy(t testing.TB, m *model.Model, name string) *securityapi.Authorization {
	t.Helper()
	r := lookup(m, name)
	if r == nil {
		t.Fatalf("no resource %s in %v", name, names(m))
	}
	a := &securityapi.Authorization{}
	if err := r.Wire.Resource.UnmarshalTo(a); err != nil {
		t.Fatal(err)
	}
	return a
}

// names of all resources.
func names(m *model.Model) []string {
	var all []string
	for _, r := range m.Resources() {
		all = append(all, r.Name)
	}
	return all
}

// describe writes a resource as YAML that does not change from run to run.
func describe(t testing.TB, r *model.Resource) string {
	t.Helper()
	message, err := r.Message()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := protojson.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		t.Fatal(err)
	}
	text, err := yaml.JSONToYAML(compact.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// describeChange writes a change as a script does.
func describeChange(t testing.TB, c model.Change) string {
	t.Helper()
	switch {
	case c.Type == model.TypeCondition:
		text := c.String() + "\n"
		return text
	case c.Resource == nil:
		return "- " + c.Name + urgent(c) + "\n"
	}
	text := "+ " + c.Name + urgent(c) + "\n"
	if len(c.Resource.Wire.Aliases) > 0 {
		text += "    aliases: " + strings.Join(c.Resource.Wire.Aliases, " ") + "\n"
	}
	for line := range strings.Lines(describe(t, c.Resource)) {
		text += "    " + line
	}
	return text
}

// urgent marks changes that must not wait.
func urgent(c model.Change) string {
	if c.Urgent {
		return " (urgent)"
	}
	return ""
}

// itoa writes a port.
func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
