package model_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

var update = flag.Bool("update", false, "rewrite the scripts in testdata")

// TestScripts runs the scripts in testdata: archives whose comment says what is
// shown. A section "apply" holds manifests, "delete" holds lines "Kind namespace/name";
// the section "changes" after them is what comes of it. -update writes those.
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, archive)
			if *update {
				if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for i, section := range archive.Files {
				if i >= len(got.Files) || string(section.Data) != string(got.Files[i].Data) {
					t.Errorf("section %d (%s): got\n%s\nwant\n%s", i, section.Name, got.Files[i].Data, section.Data)
				}
			}
		})
	}
}

// runScript replaces the sections "changes" by what comes of those before.
func runScript(t *testing.T, in *txtar.Archive) *txtar.Archive {
	t.Helper()
	m := model.New(model.Config{})
	out := &txtar.Archive{Comment: in.Comment}
	var events []model.Event
	for _, section := range in.Files {
		switch section.Name {
		case "apply":
			events = append(events, mustEvents(t, string(section.Data))...)
		case "delete":
			for line := range strings.Lines(string(section.Data)) {
				events = append(events, model.Event{Key: parseKey(t, line)})
			}
		case "changes":
			var text strings.Builder
			for _, c := range m.Apply(events...) {
				text.WriteString(describeChange(t, c))
			}
			section.Data = []byte(text.String())
			events = nil
		default:
			t.Fatalf("section %q: want apply, delete or changes", section.Name)
		}
		out.Files = append(out.Files, section)
	}
	return out
}

// parseKey reads "Pod shop/web" or "Node n1".
func parseKey(t *testing.T, line string) model.Key {
	t.Helper()
	kind, rest, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok {
		t.Fatalf("%q is no key", line)
	}
	namespace, name, ok := strings.Cut(rest, "/")
	if !ok {
		namespace, name = "", rest
	}
	return model.Key{Kind: model.Kind(kind), Namespace: namespace, Name: name}
}
