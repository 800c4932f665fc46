package lab

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestStateFileKeepsWhatItIsTold(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadState(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("ReadState of an empty directory = %v, want that there is none", err)
	}
	f, err := newStateFile(dir, "lab")
	if err != nil {
		t.Fatal(err)
	}
	err = f.update(func(s *State) {
		s.Namespaces = append(s.Namespaces, "lab-node-1")
		s.Processes = append(s.Processes, ProcessRecord{Name: "ztunnel", PID: 4711, StartTime: 99})
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := f.snapshot(); !reflect.DeepEqual(got, want) {
		t.Errorf("ReadState = %+v, want %+v", got, want)
	}
	if got.Owner.PID != os.Getpid() || !got.Owner.Alive() {
		t.Errorf("owner = %+v, want this process", got.Owner)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("directory = %v, %v, want the state file only", entries, err)
	}
	info, err := os.Stat(filepath.Join(dir, stateFileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", info.Mode(), err)
	}
}

func TestParseStateRefuses(t *testing.T) {
	tests := []struct {
		name, state, want string
	}{
		{"half a file", `{"format":1,`, "unexpected end"},
		{"another version", `{"format":2,"lab":"ambit"}`, "another version"},
		{"no name", `{"format":1}`, "lab name"},
		{"a name with a path", `{"format":1,"lab":"../x"}`, "lab name"},
		{"a namespace of somebody else", `{"format":1,"lab":"ambit","namespaces":["prod"]}`, "not a name of lab"},
		{"a namespace with a path", `{"format":1,"lab":"ambit","namespaces":["ambit-/../../etc"]}`, "not a name of lab"},
		{"init as a process", `{"format":1,"lab":"ambit","processes":[{"pid":1,"startTime":5}]}`, "cannot be one of ours"},
		{"a process group", `{"format":1,"lab":"ambit","processes":[{"pid":-5,"startTime":5}]}`, "cannot be one of ours"},
		{"no start time", `{"format":1,"lab":"ambit","processes":[{"pid":500}]}`, "cannot be one of ours"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if s, err := parseState([]byte(tt.state)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("parseState = %+v, %v, want an error with %q", s, err, tt.want)
			}
		})
	}
}

// What is accepted names only things that a lab of that name makes.
func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"format":1,"lab":"ambit","namespaces":["ambit-node-1"],"processes":[{"name":"z","pid":2,"startTime":1}]}`))
	f.Add([]byte(`{"format":1,"lab":"a"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := parseState(raw)
		if err != nil {
			return
		}
		for _, ns := range s.Namespaces {
			if !strings.HasPrefix(ns, s.Lab+"-") || filepath.Dir(Namespace{ns}.Path()) != netnsDir {
				t.Errorf("namespace %q of lab %q", ns, s.Lab)
			}
		}
		for _, p := range s.Processes {
			if p.PID <= 1 {
				t.Errorf("process %d", p.PID)
			}
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseState(again); err != nil || !reflect.DeepEqual(back, s) {
			t.Errorf("parseState of what it gave = %+v, %v, want %+v", back, err, s)
		}
	})
}
