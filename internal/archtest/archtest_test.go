package archtest

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The rules of this house, on this house.
func TestHouse(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Packages) < 10 {
		t.Fatalf("only %d packages found below %s: the test would pass for nothing", len(m.Packages), root)
	}
	for _, rule := range Rules {
		t.Run(rule.Name, func(t *testing.T) {
			for _, v := range Check(m, []Rule{rule}, Exceptions) {
				t.Error(v)
			}
		})
	}
}

func TestExceptionsHaveReasons(t *testing.T) {
	for _, e := range Exceptions {
		if len(e.Reason) < 20 {
			t.Errorf("the exception of %s from %s has no reason", e.File, e.Rule)
		}
		if !applies(Rules, e.Rule) {
			t.Errorf("the exception of %s names a rule that does not exist: %s", e.File, e.Rule)
		}
	}
}
