package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambit-mesh/ambit/internal/lab/demo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// execute runs a command line and returns what it wrote.
func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestCommandLine(t *testing.T) {
	notAProgram := filepath.Join(t.TempDir(), "ztunnel")
	if err := os.WriteFile(notAProgram, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		args    []string
		want    string // in the output
		wantErr string // in the error; empty means none
	}{
		{"no command shows the help", nil, "See a mesh:", ""},
		{"version", []string{"version"}, "ambit ", ""},
		{"help of demo says the exit codes", []string{"demo", "--help"}, "Exit codes: 0 all passed; 1 a line failed; 2 it could not run; 130 interrupted.", ""},
		{"an unknown command", []string{"frobnicate"}, "", "unknown command"},
		{"an unknown flag", []string{"demo", "--frobnicate"}, "", "unknown flag"},
		{"an unknown fault names those that there are", []string{"demo", "--break=nope"}, "", "want one of wrong-identity"},
		{"a peer and a fault exclude each other", []string{"demo", "--interop=x", "--break=all"}, "", "if any flags in the group"},
		{"a peer that is no program", []string{"demo", "--interop", notAProgram}, "", "is not a program"},
		{"no programs", []string{"demo", "--bin-dir", t.TempDir(), "--name", "cmdtest"}, "", "run `make build`"},
		{"a name that is none", []string{"demo", "clean", "--name", "../etc"}, "", "lab name"},
		{"clean without anything left", []string{"demo", "clean", "--name", "cmdtest"}, "nothing was left", ""},
		{"pods without a lab", []string{"pods", "--name", "cmdtest"}, "", "ambit demo --keep"},
		{"why without a lab", []string{"why", "a/b", "c/d", "--name", "cmdtest"}, "", "ambit demo --keep"},
		{"why of one pod", []string{"why", "a/b"}, "", "usage: ambit why SOURCE DESTINATION"},
		{"a waypoint for nothing that there is", []string{"waypoint", "apply", "--for", "pods"}, "", "want one of service, workload, all, none"},
		{"a waypoint for none, and bound", []string{"waypoint", "apply", "--for", "none", "--enroll-namespace"}, "", "would be refused"},
		{"a waypoint as JSON of kubectl", []string{"waypoint", "apply", "-o", "json"}, "", "want yaml"},
		{"a waypoint as YAML", []string{"waypoint", "apply", "-n", "shop", "-o", "yaml", "--enroll-namespace"}, "istio.io/use-waypoint: waypoint\n  name: shop", ""},
		{"a namespace that is bound, and not said", []string{"waypoint", "apply", "-o", "yaml", "--enroll-namespace"}, "", "say which"},
		{"delete of no waypoint", []string{"waypoint", "delete"}, "", "or --all"},
		{"delete of all and one", []string{"waypoint", "delete", "wp", "--all"}, "", "or --all"},
		{"shells complete what waypoints serve", []string{"__complete", "waypoint", "apply", "--for", ""}, "workload\n", ""},
		{"shells complete the faults", []string{"__complete", "demo", "--break", ""}, "fin-lost\ta filter rule", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := execute(t, tt.args...)
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
				if os.Geteuid() == 0 || !strings.Contains(err.Error(), "missing: root") {
					t.Errorf("error = %v, want %q", err, tt.wantErr)
				}
			}
			if !strings.Contains(out, tt.want) {
				t.Errorf("output has no %q:\n%s", tt.want, out)
			}
		})
	}
}

func TestListOfFaultsIsComplete(t *testing.T) {
	out, err := execute(t, "demo", "--break=list")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range demo.Faults() {
		if !strings.Contains(out, f.Name) || !strings.Contains(out, f.Does) {
			t.Errorf("fault %s is not in the list", f.Name)
		}
	}
}

func TestHiddenCommandIsHidden(t *testing.T) {
	if out, err := execute(t, "--help"); err != nil || strings.Contains(out, "lab-app") {
		t.Errorf("help shows lab-app, or fails: %v\n%s", err, out)
	}
}

func TestExitErrorKeepsItsCause(t *testing.T) {
	cause := errors.New("cause")
	if err := error(&exitError{exitFailed, cause}); !errors.Is(err, cause) || err.Error() != "cause" {
		t.Errorf("exitError = %v", err)
	}
	if text := (&exitError{code: exitFailed}).Error(); text != "" {
		t.Errorf("exitError without a cause says %q", text)
	}
}
