package main

import (
	"bytes"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/manifests"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What is embedded is what the modules of go.mod publish.
func TestEmbeddedDefinitionsAreThoseOfTheModules(t *testing.T) {
	text, err := collect()
	if err != nil {
		t.Fatal(err)
	}
	docs, err := manifests.Definitions()
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n---\n"))
	if len(docs) != len(want) {
		t.Fatalf("%d definitions are embedded, the modules have %d: run go generate ./manifests", len(docs), len(want))
	}
	for i, doc := range docs {
		if !bytes.Equal(bytes.TrimSpace(doc), bytes.TrimSpace(want[i])) {
			t.Errorf("definition %s differs from its module's: run go generate ./manifests", nameLine.FindSubmatch(doc)[1])
		}
	}
}
