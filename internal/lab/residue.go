package lab

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What redirection leaves in a pod, by the numbers of the ambient mesh.
const (
	redirectRouteTable   = 100
	redirectRulePriority = 32764
)

// Residue lists what of redirection there is in the pod's namespace now:
// nftables tables, policy rules, routes. It asks the kernel, not the agent.
// Tables of the lab's own sabotages are left out.
func (p *Pod) Residue() (found []string, err error) {
	err = p.NetNS.Do(func() error {
		tables, err := nftTables()
		if err != nil {
			return err
		}
		rules, err := policyRules()
		if err != nil {
			return err
		}
		routes, err := tableRoutes()
		found = slices.Concat(tables, rules, routes)
		return err
	})
	return found, err
}

// nftTables lists the tables in the namespace of the calling thread.
func nftTables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables: %w", err)
	}
	var names []string
	for _, t := range tables {
		if t.Name != sabotageTable {
			names = append(names, "nft table "+t.Name)
		}
	}
	return names, nil
}

// policyRules lists the policy rules that steer to the redirection's table.
func policyRules() ([]string, error) {
	var found []string
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			return nil, fmt.Errorf("list policy rules: %w", err)
		}
		for _, r := range rules {
			if r.Table == redirectRouteTable || r.Priority == redirectRulePriority {
				found = append(found, fmt.Sprintf("ip rule %d fwmark %#x lookup %d", r.Priority, r.Mark, r.Table))
			}
		}
	}
	return found, nil
}

// tableRoutes lists the routes of the redirection's table.
func tableRoutes() ([]string, error) {
	var found []string
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: redirectRouteTable}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes of table %d: %w", redirectRouteTable, err)
		}
		for _, r := range routes {
			found = append(found, fmt.Sprintf("route %v in table %d", r.Dst, redirectRouteTable))
		}
	}
	return found, nil
}

// Ports of a proxy in a pod: outbound, plaintext inbound, tunnels, DNS.
const (
	portOutbound  = 15001
	portPlaintext = 15006
	portTunnel    = 15008
	portDNS       = 15053
)

// ProxyListeners lists the ports of a proxy that something listens on in the
// pod's namespace now.
func (p *Pod) ProxyListeners() (ports []int, err error) {
	err = p.NetNS.Do(func() error {
		// /proc/net would be the namespace of the process, not of this thread.
		for _, path := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, port := range listeningPorts(raw) {
				if slices.Contains([]int{portOutbound, portPlaintext, portTunnel, portDNS}, port) {
					ports = append(ports, port)
				}
			}
		}
		return nil
	})
	return ports, err
}

// listening is the state LISTEN in /proc/net/tcp. Source: tcp_states.h of Linux.
const listening = "0A"

// listeningPorts takes the ports in state LISTEN out of /proc/net/tcp.
func listeningPorts(raw []byte) []int {
	var ports []int
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // sl local_address rem_address st ...
		if len(fields) < 4 || fields[3] != listening {
			continue
		}
		_, hexPort, _ := strings.Cut(fields[1], ":")
		if port, err := strconv.ParseUint(hexPort, 16, 16); err == nil {
			ports = append(ports, int(port))
		}
	}
	return ports
}
