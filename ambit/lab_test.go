package main

import (
	"os"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/e2e/cluster/machine"
)

func TestLabCommandLine(t *testing.T) {
	tests := []struct {
		name    string
		args    []string
		want    string // in the output
		wantErr string // in the error; empty means none
	}{
		{"help says what it needs", []string{"lab", "--help"}, "make e2e-deps", ""},
		{"status of none", []string{"lab", "status", "--name", "cmdtest"}, "", "ambit lab up --name cmdtest"},
		{"kubeconfig of none", []string{"lab", "kubeconfig", "--name", "cmdtest"}, "", "ambit lab up --name cmdtest"},
		{"load into none", []string{"lab", "load", "--name", "cmdtest", "x.tar"}, "", "ambit lab up --name cmdtest"},
		{"load of nothing", []string{"lab", "load", "--name", "cmdtest"}, "", "requires at least 1 arg"},
		{"exec of nothing", []string{"lab", "exec", "node-1", "--name", "cmdtest"}, "", "requires at least 2 arg"},
		{"a name that is none", []string{"lab", "up", "--name", "../etc"}, "", "cluster name"},
		{"too many nodes", []string{"lab", "up", "--name", "cmdtest", "--nodes", "99"}, "", "want 1 to 8"},
		{"a subnet that is none", []string{"lab", "up", "--name", "cmdtest", "--subnet", "nonsense"}, "", "--subnet"},
		{"down of none", []string{"lab", "down", "--name", "cmdtest"}, "nothing was left", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if os.Geteuid() != 0 && tt.args[1] == "down" {
				tt.want, tt.wantErr = "", "missing: root"
			}
			out, err := execute(t, tt.args...)
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("error = %v, want %q", err, tt.wantErr)
			}
			if !strings.Contains(out, tt.want) {
				t.Errorf("output has no %q:\n%s", tt.want, out)
			}
		})
	}
}

func TestLabStatusNamesWhatIsDown(t *testing.T) {
	var out strings.Builder
	err := printLabStatus(&out, cluster.Status{Name: "x", Machines: []cluster.MachineStatus{
		{Name: "control", PID: 7},
		{Name: "node-1", PID: 8, Alive: true, Node: "Ready", Services: []machine.ServiceStatus{{Name: "kubelet", PID: 3, Starts: 2}, {Name: "containerd"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ended", "Ready", "kubelet (started 2 times)", "containerd (down)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}
