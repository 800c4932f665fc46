package straightpath

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

func applyRules(t *testing.T, ns *netns.NS) {
	t.Helper()
	netnstest.Do(t, ns, func() error {
		for _, c := range []string{"ip rule add fwmark 0x111/0xfff pref 32764 lookup 100", "ip route add local 0.0.0.0/0 dev lo table 100"} {
			if out, err := exec.Command("sh", "-c", c).CombinedOutput(); err != nil {
				t.Error(string(out))
				return err
			}
		}
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(`
table inet a {
 chain pm { type filter hook prerouting priority -150;
  meta mark & 0xfff == 0x539 ct mark set ct mark & 0xfffff000 | 0x111
 }
 chain om { type route hook output priority -150;
  ct mark & 0xfff == 0x111 meta mark set ct mark
 }
 chain pn { type nat hook prerouting priority -100;
  ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
 }
 chain on { type nat hook output priority -100;
  meta l4proto tcp meta mark & 0xfff == 0x111 accept
  ip daddr != 127.0.0.1 oifname "lo" accept
  ip daddr != 127.0.0.1 meta l4proto tcp meta mark & 0xfff != 0x539 redirect to :15001
 }
}`)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Error(string(out))
			return err
		}
		return nil
	})
}
