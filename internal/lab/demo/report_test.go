package demo

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestEveryLineHasAFault(t *testing.T) {
	lines := map[string]bool{}
	for _, l := range Lines() {
		if lines[l.Name] {
			t.Errorf("two lines are named %s", l.Name)
		}
		lines[l.Name] = false
	}
	names := map[string]bool{}
	for _, f := range Faults() {
		if _, ok := lines[f.Line]; !ok {
			t.Errorf("fault %s: no line %q", f.Name, f.Line)
		}
		if names[f.Name] || f.Sign == "" || f.Does == "" || f.apply == nil {
			t.Errorf("fault %q: wants a name of its own, words, a sign and something to do", f.Name)
		}
		names[f.Name], lines[f.Line] = true, true
	}
	for name, has := range lines {
		if !has {
			t.Errorf("line %s has no fault: nobody knows whether it can fail", name)
		}
	}
	if _, err := FaultNamed("no-such"); err == nil || !strings.Contains(err.Error(), "wrong-identity") {
		t.Errorf("FaultNamed of an unknown one = %v, want the names that there are", err)
	}
}

var sampleResults = []Result{
	{Line: "wire", Says: "nothing can be read", Passed: true, Evidence: "0 of 12 frames", Seconds: 0.26},
	{Line: "strict", Says: "STRICT refuses plaintext", Error: "still got an answer\nsecond line", Seconds: 3},
	{Line: "deny", Fault: "stolen-account", Says: "runs as another", Passed: true, Evidence: "red", Seconds: 1},
}

func TestPrinter(t *testing.T) {
	var out strings.Builder
	p := Printer{Out: &out}
	for _, r := range sampleResults {
		p.Result(r)
	}
	p.Summary(sampleResults)
	const want = `ok    wire                   nothing can be read (0.3 s)
      0 of 12 frames
FAIL  strict                 STRICT refuses plaintext (3.0 s)
      still got an answer
      second line
ok    stolen-account         runs as another (1.0 s)
      red
2 passed, 1 failed
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("escape sequences without Colour")
	}
	out.Reset()
	Printer{Out: &out, Colour: true}.Result(sampleResults[1])
	if !strings.HasPrefix(out.String(), red+"FAIL"+plain) {
		t.Errorf("coloured: %q", out.String())
	}
}

func TestWriteJSON(t *testing.T) {
	var out strings.Builder
	if err := WriteJSON(&out, sampleResults, 12.5); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Results []Result
		Passed  int
		Failed  int
		Seconds float64
	}
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Passed != 2 || got.Failed != 1 || len(got.Results) != 3 || got.Results[1] != sampleResults[1] || got.Seconds != 12.5 {
		t.Errorf("JSON = %+v", got)
	}
	out.Reset()
	if err := WriteJSON(&out, nil, 0); err != nil || !strings.Contains(out.String(), `"results": []`) {
		t.Errorf("no results: %s, %v, want an empty list", out.String(), err)
	}
}
