package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// stateVersion is the form of the state file that is written and read.
const stateVersion = 1

// state is the content of the state file.
type state struct {
	Version int      `json:"version"`
	Pods    []record `json:"pods"`
}

// readState reads the file. One that is not there is an empty state.
func readState(path string) ([]record, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseState(path, raw)
}

// parseState reads the content of a state file.
func parseState(path string, raw []byte) ([]record, error) {
	var s state
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("state file %s: version %d, want %d", path, s.Version, stateVersion)
	}
	for i, r := range s.Pods {
		if r.UID == "" || r.Netns == "" || r.Name == "" || r.Namespace == "" {
			return nil, fmt.Errorf("state file %s: pod %d has no uid, name, namespace or netns", path, i)
		}
	}
	return s.Pods, nil
}

// writeState replaces the file as a whole.
func writeState(path string, pods []record) (err error) {
	raw, err := json.MarshalIndent(state{Version: stateVersion, Pods: pods}, "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(raw, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
