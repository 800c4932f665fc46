package straightpath

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// enslave puts an interface of the calling thread's namespace on a bridge.
func enslave(port, bridge string) error {
	p, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	b, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	return netlink.LinkSetMaster(p, b)
}

// reject makes p refuse TCP from an address to a port of its own, before its
// other rules are asked: what a NetworkPolicy does.
func (p *pod) reject(t *testing.T, from netip.Addr, port uint16) {
	t.Helper()
	p.filter(t, from, port, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
}

// ignore makes p drop TCP from an address to a port of its own without a word.
func (p *pod) ignore(t *testing.T, from netip.Addr, port uint16) {
	t.Helper()
	p.filter(t, from, port, &expr.Verdict{Kind: expr.VerdictDrop})
}

// rejectNew is reject as most network policies do it: what has begun goes on.
func (p *pod) rejectNew(t *testing.T, from netip.Addr, port uint16) {
	t.Helper()
	p.filter(t, from, port, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, expr.CtStateBitNEW), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
}

// filter has p do something with TCP from an address to a port of its own, under
// further conditions.
func (p *pod) filter(t *testing.T, from netip.Addr, port uint16, do expr.Any, when ...expr.Any) {
	t.Helper()
	netnstest.Do(t, p.ns, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "networkpolicy"})
		chain := c.AddChain(&nftables.Chain{
			Name: "input", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(when,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: from.AsSlice()},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
			do,
		)})
		return c.Flush()
	})
}

// unfilter takes away what filter has done.
func (p *pod) unfilter(t *testing.T) {
	t.Helper()
	netnstest.Do(t, p.ns, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "networkpolicy"})
		return c.Flush()
	})
}

// killTunnels ends all TCP connections of p's tunnel port, as a network does
// that has lost them.
func (p *pod) killTunnels(t *testing.T) {
	t.Helper()
	netnstest.Do(t, p.ns, func() error {
		socks, err := netlink.SocketDiagTCP(unix.AF_INET6)
		if err != nil {
			return err
		}
		killed := 0
		for _, s := range socks {
			if s.ID.SourcePort == 15008 && s.State == netlink.TCP_ESTABLISHED {
				if err := netlink.SocketDestroy(
					&net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)},
					&net.TCPAddr{IP: s.ID.Destination, Port: int(s.ID.DestinationPort)}); err != nil {
					return err
				}
				killed++
			}
		}
		if killed == 0 {
			return errors.New("there is no tunnel to kill")
		}
		return nil
	})
}

// isReset reports whether err is what a client sees of a reset.
func isReset(err error) bool {
	// ENOTCONN: the reset came before our end of it was said.
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTCONN)
}

// dump is what the tests read of config_dump.
type dump struct {
	Workloads []struct {
		UID      string `json:"uid"`
		Name     string `json:"name"`
		Protocol string `json:"protocol"`
	} `json:"workloads"`
	Services []struct {
		Name      string                     `json:"name"`
		Hostname  string                     `json:"hostname"`
		Endpoints map[string]json.RawMessage `json:"endpoints"`
	} `json:"services"`
	Policies []struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"policies"`
	Certificates []struct {
		Identity string `json:"identity"`
		State    string `json:"state"`
		Chain    []struct {
			Serial string `json:"serialNumber"`
		} `json:"certChain"`
	} `json:"certificates"`
}

// dump reads config_dump.
func (p *proxy) dump(t *testing.T) dump {
	t.Helper()
	var d dump
	if err := json.Unmarshal([]byte(p.get(t, "admin", "/config_dump")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// get reads a page of one of the servers of p.
func (p *proxy) get(t *testing.T, server, path string) string {
	t.Helper()
	client := p.client()
	resp, err := client.Get("http://" + p.Addr(server).String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// client asks the servers of p, from where p runs.
func (p *proxy) client() *http.Client {
	tr := &http.Transport{DisableKeepAlives: true}
	if p.ns != nil {
		tr.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			if to.Addr().IsUnspecified() {
				to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port())
			}
			return p.ns.Dial(ctx, netns.DialOptions{Remote: to})
		}
	}
	return &http.Client{Transport: tr, Timeout: 5 * time.Second}
}

// post sends an empty POST to the admin port.
func (p *proxy) post(t *testing.T, path string) {
	t.Helper()
	client := p.client()
	resp, err := client.Post("http://"+p.Addr("admin").String()+path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, resp.Status)
	}
}

// metric sums the values of the series of a metric whose labels contain all of
// words.
func (p *proxy) metric(t *testing.T, name string, words ...string) float64 {
	t.Helper()
	sum := 0.0
next:
	for line := range strings.Lines(p.get(t, "stats", "/metrics")) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok {
			series, value, ok = strings.Cut(strings.TrimSpace(line), " ")
		}
		if !ok || (!strings.HasPrefix(series, name+"{") && series != name) {
			continue
		}
		for _, w := range words {
			if !strings.Contains(series, w) {
				continue next
			}
		}
		var v float64
		if err := json.Unmarshal([]byte(strings.Fields(value)[0]), &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sum += v
	}
	return sum
}
