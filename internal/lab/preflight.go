package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Missing is one thing that this machine lacks for a lab, and how to get it.
type Missing struct {
	What string
	How  string
	Err  error // what the kernel said; may be nil
}

func (m Missing) String() string {
	s := "missing: " + m.What
	if m.Err != nil {
		s += " (" + m.Err.Error() + ")"
	}
	return s + "\n   to get it: " + m.How
}

// MissingError is all that this machine lacks for a lab.
type MissingError struct {
	Things []Missing
}

func (e *MissingError) Error() string {
	var lines []string
	for _, m := range e.Things {
		lines = append(lines, m.String())
	}
	return strings.Join(lines, "\n")
}

// feature is something that the kernel must be able to do inside a fresh
// namespace.
type feature struct {
	what, how string
	try       func() error
}

// Preflight tries in a namespace of its own what a lab needs of the machine. The
// error is a [*MissingError] that names everything at once.
func Preflight() error {
	if runtime.GOOS != "linux" {
		return &MissingError{[]Missing{{What: "Linux", How: "run it in a Linux virtual machine"}}}
	}
	if os.Geteuid() != 0 {
		return &MissingError{[]Missing{{
			What: "root: network namespaces and packet rules need it",
			How:  "sudo " + strings.Join(os.Args, " "),
		}}}
	}
	var missing []Missing
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread and its namespace end with this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		for _, f := range features() {
			if err := f.try(); err != nil {
				missing = append(missing, Missing{What: f.what, How: f.how, Err: err})
			}
		}
		result <- nil
	}()
	if err := <-result; err != nil {
		missing = append(missing, Missing{
			What: "network namespaces", Err: err,
			How: "a kernel with CONFIG_NET_NS, and CAP_SYS_ADMIN: in a container, docker run --privileged",
		})
	}
	if err := tryMount(); err != nil {
		missing = append(missing, Missing{
			What: "named network namespaces in " + netnsDir, Err: err,
			How: "CAP_SYS_ADMIN and a writable /run: in a container, docker run --privileged",
		})
	}
	if len(missing) > 0 {
		return &MissingError{missing}
	}
	return nil
}

// features are tried on a thread in a fresh namespace.
func features() []feature {
	return []feature{
		{"veth pairs", "modprobe veth (CONFIG_VETH)", tryVeth},
		{"bridges", "modprobe bridge (CONFIG_BRIDGE)", func() error {
			return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "try-br"}})
		}},
		{"nftables with nat, redirect and connection marks",
			"modprobe -a nf_tables nft_chain_nat nft_redir nft_ct (CONFIG_NF_TABLES, NFT_NAT, NFT_REDIR, NFT_CT, NF_TABLES_INET)", tryNftables},
		{"policy routing", "a kernel with CONFIG_IP_MULTIPLE_TABLES", func() error {
			_, err := netlink.RuleList(unix.AF_INET)
			return err
		}},
		{"packet sockets, for looking at the wire", "modprobe af_packet (CONFIG_PACKET)", trySocket(unix.AF_PACKET, unix.SOCK_RAW, nil)},
		{"transparent sockets, for keeping source addresses", "CAP_NET_ADMIN: in a container, docker run --privileged",
			trySocket(unix.AF_INET, unix.SOCK_STREAM, func(fd int) error {
				return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
			})},
	}
}

func tryVeth() error {
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "try-a"}, PeerName: "try-b"})
}

// tryNftables sends the kinds of rule that redirection is made of.
func tryNftables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "try"})
	nat := conn.AddChain(&nftables.Chain{
		Table: table, Name: "nat", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: nat, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Immediate{Register: 1, Data: []byte{0x3a, 0x99}}, // port 15001
		&expr.Redir{RegisterProtoMin: 1},
	}})
	mangle := conn.AddChain(&nftables.Chain{
		Table: table, Name: "mangle", Type: nftables.ChainTypeRoute,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: mangle, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}})
	return conn.Flush()
}

// trySocket opens a socket and tries an option on it.
func trySocket(family, typ int, option func(fd int) error) func() error {
	return func() error {
		fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if option != nil {
			err = option(fd)
		}
		return errors.Join(err, unix.Close(fd))
	}
}

// tryMount makes and removes a named namespace.
func tryMount() error {
	ns := Namespace{fmt.Sprintf("ambit-try-%d", os.Getpid())}
	return errors.Join(ns.create(), ns.remove())
}
