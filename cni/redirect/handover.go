package redirect

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ambit-mesh/ambit/internal/netns"
)

// migrateReq is the setting of a namespace by which a listener that closes leaves
// what waits in its accept queue to another one on the same port. Without it
// those connections are reset. Source: ip-sysctl, tcp_migrate_req; Linux 5.14.
const migrateReq = "/proc/sys/net/ipv4/tcp_migrate_req"

// AllowHandOver lets one proxy of the pod take over from another without losing
// connections that wait to be accepted. It is done here because a proxy's own
// container may not be allowed to write settings. Kernels that lack the setting
// do without. Remove leaves it: it changes nothing for a pod without a proxy,
// except that listeners of its own that share a port lose nothing either.
func AllowHandOver(ns *netns.NS) error {
	err := ns.Do(func() error {
		have, err := os.ReadFile(migrateReq)
		if err != nil || strings.TrimSpace(string(have)) == "1" {
			return err
		}
		return os.WriteFile(migrateReq, []byte("1"), 0)
	})
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("allow a hand-over in %v: %w", ns, err)
}
