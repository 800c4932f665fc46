package redirect

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// answerTimeout bounds each answer of the kernel, which comes at once or never.
const answerTimeout = 5 * time.Second

// DriftError says that a namespace does not hold what it should.
type DriftError struct {
	Missing []string // lines of the text that should be there and are not
	Extra   []string // lines that are there and should not
}

// Error names the first difference of each kind.
func (e *DriftError) Error() string {
	var parts []string
	if len(e.Missing) > 0 {
		parts = append(parts, fmt.Sprintf("%d missing, such as %q", len(e.Missing), e.Missing[0]))
	}
	if len(e.Extra) > 0 {
		parts = append(parts, fmt.Sprintf("%d too many, such as %q", len(e.Extra), e.Extra[0]))
	}
	if len(parts) == 0 {
		return "redirection is not as written: the same lines in another order"
	}
	return "redirection is not as written: " + strings.Join(parts, "; ")
}

// Apply writes the rules of cfg into ns, and verifies them. What is already as
// it should be is left alone.
func Apply(ns *netns.NS, cfg Config) error {
	_, err := Reconcile(ns, cfg)
	return err
}

// Reconcile is Apply, and says what was different before; nil when nothing was
// written.
func Reconcile(ns *netns.NS, cfg Config) (before *DriftError, err error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	err = Verify(ns, cfg)
	if err == nil || !errors.As(err, &before) {
		return nil, err
	}
	if err := applyRouting(ns, cfg); err != nil {
		return before, err
	}
	if err := replaceTable(ns, cfg); err != nil {
		return before, err
	}
	return before, Verify(ns, cfg)
}

// replaceTable writes our table, whatever was there, in one transaction.
func replaceTable(ns *netns.NS, cfg Config) error {
	return withNftables(ns, func(c *nftables.Conn) error {
		table, chains, rules := compile(cfg)
		c.AddTable(table) // so that there is one to delete
		c.DelTable(table)
		c.AddTable(table)
		for _, ch := range chains {
			c.AddChain(ch)
		}
		for _, r := range rules {
			c.AddRule(r)
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("write table %s: %w", TableName, explain(err))
		}
		return nil
	})
}

// Verify compares what ns holds with cfg. The error is a [*DriftError] when they
// differ.
func Verify(ns *netns.NS, cfg Config) error {
	have, err := Read(ns)
	if err != nil {
		return err
	}
	want := Text(cfg)
	if have == want {
		return nil
	}
	return &DriftError{Missing: linesNotIn(want, have), Extra: linesNotIn(have, want)}
}

// linesNotIn returns the lines of a that b has not, or not as often.
func linesNotIn(a, b string) []string {
	count := map[string]int{}
	for line := range strings.Lines(b) {
		count[line]++
	}
	var only []string
	for line := range strings.Lines(a) {
		if count[line]--; count[line] < 0 {
			only = append(only, strings.TrimSpace(line))
		}
	}
	return only
}

// Text is what Read gives for a namespace that holds exactly cfg.
func Text(cfg Config) string {
	_, chains, rules := compile(cfg)
	return renderTable(sortChains(chains), rules) + renderRouting(cfg)
}

// Read renders what of ours ns holds: the table, the policy rules, the routes.
// It is empty when nothing is there.
func Read(ns *netns.NS) (string, error) {
	table, err := readTable(ns)
	if err != nil {
		return "", err
	}
	routing, err := readRouting(ns)
	return table + routing, err
}

// readTable renders our table as the kernel gives it back.
func readTable(ns *netns.NS) (string, error) {
	var chains []*nftables.Chain
	var rules []*nftables.Rule
	found := false
	err := withNftables(ns, func(c *nftables.Conn) error {
		table, err := findTable(c)
		if table == nil || err != nil {
			return err
		}
		found = true
		all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
		if err != nil {
			return fmt.Errorf("list chains: %w", err)
		}
		for _, ch := range all {
			if ch.Table.Name != TableName {
				continue
			}
			chains = append(chains, ch)
			some, err := c.GetRules(table, ch)
			if err != nil {
				return fmt.Errorf("list rules of chain %s: %w", ch.Name, err)
			}
			rules = append(rules, some...)
		}
		return nil
	})
	if err != nil || !found {
		return "", err
	}
	return renderTable(sortChains(chains), rules), nil
}

// findTable returns our table, or nil when there is none.
func findTable(c *nftables.Conn) (*nftables.Table, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == TableName })
	if i < 0 {
		return nil, nil
	}
	return tables[i], nil
}

// sortChains puts chains into the order of their names.
func sortChains(chains []*nftables.Chain) []*nftables.Chain {
	return slices.SortedFunc(slices.Values(chains), func(a, b *nftables.Chain) int { return strings.Compare(a.Name, b.Name) })
}

// Remove takes everything of ours out of ns. What is not there is no error.
func Remove(ns *netns.NS) error {
	err := withNftables(ns, func(c *nftables.Conn) error {
		table, err := findTable(c)
		if table == nil || err != nil {
			return err
		}
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			return fmt.Errorf("delete table %s: %w", TableName, err)
		}
		return nil
	})
	// Routes last: while rules are there, answers to borrowed addresses need them.
	return errors.Join(err, removeRouting(ns))
}

// withNftables calls fn with a connection to the nftables of ns.
func withNftables(ns *netns.NS, fn func(*nftables.Conn) error) error {
	return ns.WithFD(func(fd int) error {
		c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(fd), nftables.WithSockOptions(func(c *netlink.Conn) error {
			return c.SetDeadline(time.Now().Add(answerTimeout))
		}))
		if err != nil {
			return fmt.Errorf("open nftables in %v: %w", ns, err)
		}
		defer c.CloseLasting()
		if err := fn(c); err != nil {
			return fmt.Errorf("nftables in %v: %w", ns, err)
		}
		return nil
	})
}

// explain adds what to try to an error of writing rules.
func explain(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w; needs CAP_NET_ADMIN", err)
	case errors.Is(err, errNoSupport), errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w; needs a kernel with nf_tables, nft_redir, nft_ct and NAT: try modprobe nft_redir nft_ct nft_chain_nat", err)
	}
	return err
}
