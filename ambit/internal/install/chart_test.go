package install

import (
	"bytes"
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
)

// What is packed is a chart that Helm loads, with all that a chart of ours has.
func TestPackChart(t *testing.T) {
	var first, second bytes.Buffer
	for _, w := range []*bytes.Buffer{&first, &second} {
		if err := PackChart(w, "v1.2.3", true); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("twice the same version gives different bytes")
	}
	c, err := loader.LoadArchive(&first)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if c.Metadata.Version != "1.2.3" || c.Metadata.AppVersion != "v1.2.3" || len(c.CRDObjects()) < 8 || len(c.Schema) == 0 {
		t.Errorf("chart %+v with %d definitions", c.Metadata, len(c.CRDObjects()))
	}
}
