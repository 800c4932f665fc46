package lab

import (
	"fmt"
	"slices"

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
