package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var someRecords = []record{{
	Key: event.Attachment{ContainerID: "c1", IfName: "eth0"}, Network: "pods", UID: "u1", Namespace: "shop", Name: "web",
	ServiceAccount: "front", Netns: "/run/netns/x", NetnsID: netns.ID{Dev: 4, Inode: 4026532177},
	IPs: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}, Captured: true,
	Redirect: redirect.Config{IPv6: true, VirtualInterfaces: []string{"a0"}, ProbeV4: netip.MustParseAddr("169.254.7.127")},
}, {UID: "u2", Namespace: "shop", Name: "db", Netns: "/run/netns/y"}}

func TestStateComesBackAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if got, err := readState(path); err != nil || got != nil {
		t.Fatalf("no file: %v, %v, want no pods", got, err)
	}
	for range 2 { // the second replaces the first
		if err := writeState(path, someRecords); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readState(path)
	if diff := cmp.Diff(someRecords, got, cmpopts.EquateComparable(netip.Addr{})); err != nil || diff != "" {
		t.Errorf("read back: %v\n%s", err, diff)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v, want the state file alone", entries, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", st.Mode(), err)
	}
}

func TestStateFileWithAMistakeIsNamed(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON":          "{",
		"another version":   `{"version":7}`,
		"a pod without uid": `{"version":1,"pods":[{"name":"a","namespace":"b","netns":"c"}]}`,
	} {
		if _, err := parseState("/run/x/state.json", []byte(text)); err == nil || !strings.Contains(err.Error(), "/run/x/state.json") {
			t.Errorf("%s: %v, want an error that names the file", name, err)
		}
	}
}

// FuzzState: what is read can be written and read again, and means the same.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"pods":[{"uid":"u","name":"a","namespace":"b","netns":"c","captured":true,"ips":["10.0.0.1"],"redirect":{"dns":true}}]}`))
	f.Add([]byte(`{"version":1}`))
	path := filepath.Join(f.TempDir(), "state.json")
	f.Fuzz(func(t *testing.T, raw []byte) {
		records, err := parseState(path, raw)
		if err != nil {
			return
		}
		if err := writeState(path, records); err != nil {
			t.Fatal(err)
		}
		again, err := readState(path)
		if diff := cmp.Diff(records, again, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("read again: %v\n%s", err, diff)
		}
	})
}
