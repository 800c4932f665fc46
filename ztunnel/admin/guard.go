package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
)

// ErrNotLoopback is the cause when the admin server shall listen where others
// could reach it.
var ErrNotLoopback = errors.New("the admin server shows everything and can stop the process: " +
	"give it a loopback address, or allow remote administration explicitly")

// openAdmin listens for people: on loopback only, unless configured otherwise.
func (s *Server) openAdmin(ctx context.Context, addr string) ([]net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", addr, err)
	}
	if !loopback(host) && !s.cfg.AllowRemoteAdmin {
		return nil, fmt.Errorf("address %q: %w", addr, ErrNotLoopback)
	}
	return open(ctx, addr)
}

// loopback tells whether host can only mean this machine. Other names than
// localhost are not asked for: what they mean can change.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// open listens on addr. The name localhost means both loopback addresses; the
// IPv6 one may be missing on this machine.
func open(ctx context.Context, addr string) ([]net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", addr, err)
	}
	var lc net.ListenConfig
	if !strings.EqualFold(host, "localhost") {
		ln, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return openWithoutIPv6(ctx, addr, err)
		}
		return []net.Listener{ln}, nil
	}
	v4, err := lc.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err // it names the act and the address
	}
	_, port, err = net.SplitHostPort(v4.Addr().String()) // port 0 was chosen
	if err != nil {
		return nil, errors.Join(err, v4.Close())
	}
	v6, err := lc.Listen(ctx, "tcp6", net.JoinHostPort("::1", port))
	switch {
	case err == nil:
		return []net.Listener{v4, v6}, nil
	case noIPv6(err):
		return []net.Listener{v4}, nil
	}
	return nil, errors.Join(err, v4.Close())
}

// openWithoutIPv6 tries the IPv4 wildcard where the machine has no IPv6 and all
// addresses were meant. err is why addr could not be opened.
func openWithoutIPv6(ctx context.Context, addr string, err error) ([]net.Listener, error) {
	port, ok := strings.CutPrefix(addr, "[::]:")
	if !ok || !noIPv6(err) {
		return nil, err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp4", net.JoinHostPort("0.0.0.0", port))
	if err != nil {
		return nil, err // it names the act and the address
	}
	return []net.Listener{ln}, nil
}

// noIPv6 tells whether err means that this machine has no such address.
func noIPv6(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// guard keeps web pages away from next: those that reach it by a name of their
// own that points here (DNS rebinding), and those that send a form to it.
func guard(next http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ownHost(r.Host) {
			http.Error(w, fmt.Sprintf("host %q: ask for localhost or an IP address", clipHost(r.Host)), http.StatusForbidden)
			return
		}
		sameOrigin.ServeHTTP(w, r)
	})
}

// ownHost tells whether the Host of a request is one that nobody else can let
// point here: localhost, or an address.
func ownHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}

// clipHost shortens what a stranger wrote for the answer.
func clipHost(host string) string {
	const most = 100
	return host[:min(len(host), most)]
}
