package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// AccessLine is a line of a ztunnel's access log, as far as the lab needs it.
type AccessLine struct {
	Time        string `json:"time"`
	Scope       string `json:"scope"`
	Message     string `json:"message"`
	Direction   string `json:"direction"`
	Hop         string `json:"hop"`
	SrcAddr     string `json:"src.addr"`
	SrcIdentity string `json:"src.identity"`
	SrcWorkload string `json:"src.workload"`
	DstAddr     string `json:"dst.addr"`
	HBONEAddr   string `json:"dst.hbone_addr"`
	DstService  string `json:"dst.service"`
	DstWorkload string `json:"dst.workload"`
	DstIdentity string `json:"dst.identity"`
	Policy      string `json:"policy"`
	Stage       string `json:"stage"`
	Fault       string `json:"fault"`
	Error       string `json:"error"`
}

// From reports whether the connection came from addr.
func (a AccessLine) From(addr netip.Addr) bool {
	src, err := netip.ParseAddrPort(a.SrcAddr)
	return err == nil && src.Addr() == addr
}

// To reports whether the connection was meant for dst: by the authority of its
// tunnel, or by its address when there was none.
func (a AccessLine) To(dst netip.AddrPort) bool {
	return a.HBONEAddr == dst.String() || a.HBONEAddr == "" && a.DstAddr == dst.String()
}

// AccessLog is a place in the log of a ztunnel: what is written after it can be
// waited for.
type AccessLog struct {
	node   *Node
	path   string
	offset int64
}

// AccessLog returns the end of the node's access log as it is now.
func (n *Node) AccessLog() (*AccessLog, error) {
	if n.Ztunnel == nil {
		return nil, fmt.Errorf("no ztunnel runs on %s", n.Name)
	}
	info, err := os.Stat(n.Ztunnel.Record.Log)
	if err != nil {
		return nil, err
	}
	return &AccessLog{node: n, path: n.Ztunnel.Record.Log, offset: info.Size()}, nil
}

// Wait returns the first line after the place that match accepts. It waits for
// it up to 3 seconds; what names the line in the error.
func (a *AccessLog) Wait(ctx context.Context, what string, match func(AccessLine) bool) (AccessLine, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for {
		lines, err := a.Lines()
		if err != nil {
			return AccessLine{}, err
		}
		for _, l := range lines {
			if match(l) {
				return l, nil
			}
		}
		if lifecycle.Sleep(ctx, 10*time.Millisecond) != nil {
			return AccessLine{}, fmt.Errorf("ztunnel of %s has no record of %s among %d new ones%s", a.node.Name, what, len(lines), lastOf(lines))
		}
	}
}

// lastOf shows the last of the lines that did not fit.
func lastOf(lines []AccessLine) string {
	if len(lines) == 0 {
		return ""
	}
	raw, err := json.Marshal(lines[len(lines)-1])
	if err != nil {
		return ""
	}
	return "; the last: " + string(raw)
}

// Lines returns the access lines after the place.
func (a *AccessLog) Lines() ([]AccessLine, error) {
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(a.offset, io.SeekStart); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return parseAccess(raw)
}

// parseAccess reads the access lines of a log. A last line that is still being
// written is left for the next time; what is not JSON is not an access line.
func parseAccess(raw []byte) ([]AccessLine, error) {
	var lines []AccessLine
	for line := range bytes.Lines(raw) {
		if !bytes.HasSuffix(line, []byte{'\n'}) {
			break
		}
		var l AccessLine
		var bad *json.SyntaxError
		switch err := json.Unmarshal(line, &l); {
		case errors.As(err, &bad) || err == nil && l.Scope != "access":
			continue
		case err != nil:
			return nil, fmt.Errorf("access log line %s: %w", strings.TrimSpace(string(line)), err)
		}
		lines = append(lines, l)
	}
	return lines, nil
}
