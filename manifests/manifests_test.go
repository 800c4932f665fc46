package manifests

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSemVer(t *testing.T) {
	// Semantic Versioning 2.0.0, section 9, as far as it concerns us.
	valid := regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)
	tests := map[string]string{
		"v1.2.3":              "1.2.3",
		"1.2.3-rc.1":          "1.2.3-rc.1",
		"v1.2.3-4-gabc":       "1.2.3-4-gabc",
		"abc123-dirty":        "0.0.0-gabc123-dirty",
		"0123456":             "0.0.0-g0123456",
		"dev":                 "0.0.0-gdev",
		"":                    "0.0.0-g",
		"a_b+c/d":             "0.0.0-ga-b-c-d",
		"v01.2.3":             "0.0.0-gv01-2-3",
		"v0.1.0-dirty":        "0.1.0-dirty",
		"v0.1.0-3-gabc-dirty": "0.1.0-3-gabc-dirty",
	}
	for in, want := range tests {
		if got := SemVer(in); got != want || !valid.MatchString(got) {
			t.Errorf("SemVer(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestChartCarriesTheVersion(t *testing.T) {
	files, err := Chart("v1.2.3-4-gabc")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(files, func(f File) bool { return f.Name == "Chart.yaml" })
	text := string(files[i].Data)
	for _, want := range []string{"\nversion: \"1.2.3-4-gabc\"\n", "\nappVersion: \"v1.2.3-4-gabc\"\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("Chart.yaml has no %q:\n%s", want, text)
		}
	}
	if !slices.ContainsFunc(files, func(f File) bool { return f.Name == "templates/_helpers.tpl" }) {
		t.Error("files that begin with an underscore are not embedded")
	}
}

func TestDefinitionsAreComplete(t *testing.T) {
	docs, err := Definitions()
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range docs {
		if !strings.Contains(string(doc), "\nkind: CustomResourceDefinition\n") {
			t.Errorf("no definition:\n%.200s", doc)
		}
	}
}
