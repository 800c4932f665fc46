package grpcclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

const (
	// connectTimeout bounds the TCP connect and, again, the TLS handshake.
	connectTimeout = 5 * time.Second

	// keepaliveTime and keepaliveTimeout are the HTTP/2 PINGs: after how long a
	// silence one is sent, and how long its answer may take.
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 10 * time.Second

	// maxReceive is the largest message that is taken, in bytes: the first answer
	// for a large mesh holds all of it.
	maxReceive = 200 << 20

	// Waits between connection attempts. Our choice: the control plane is found
	// again within seconds of coming back, and a fleet does not come in step.
	reconnectFirst = 100 * time.Millisecond
	reconnectMax   = 5 * time.Second
)

// Config says where the control plane is and who we are to it.
type Config struct {
	// Address is host:port or https://host:port. Plaintext is not spoken.
	Address string
	// RootCA is what the server's certificate has to lead to: the path of a PEM
	// file, which is read again at each handshake; "SYSTEM" for the roots of the
	// operating system; or PEM text.
	RootCA string
	// ServerName is the name to check in the server's certificate. Empty means
	// the host of Address.
	ServerName string
	// Token proves who we are: the path of a file, which is read again at each
	// call, when it starts with "/", "./" or "../"; else the token itself. Empty
	// means that none is sent.
	Token string
	// ClusterID is sent as "clusterid". Empty means that none is sent.
	ClusterID string
	// Headers are sent on each call.
	Headers map[string]string
}

// Dial makes a connection that is opened at the first call and again whenever
// it is lost. The caller closes it.
func Dial(cfg Config) (*grpc.ClientConn, error) {
	hostPort, host, err := parseAddress(cfg.Address)
	if err != nil {
		return nil, err
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	transport, err := newTransport(cfg.RootCA, cfg.ServerName)
	if err != nil {
		return nil, err
	}
	calls, err := newCallHeaders(cfg)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{
		Timeout: connectTimeout,
		// Source: the settings of the existing node proxies.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 300 * time.Second, Interval: 75 * time.Second, Count: 9},
	}
	return grpc.NewClient("dns:///"+hostPort,
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(calls),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", addr)
		}),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
			MinConnectTimeout: 2 * connectTimeout, // TCP and TLS have connectTimeout each
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
	)
}

// parseAddress reads host:port with or without https:// in front.
func parseAddress(s string) (hostPort, host string, err error) {
	if s == "" {
		return "", "", errors.New("control plane address is empty: want host:port")
	}
	hostPort = s
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil {
			return "", "", fmt.Errorf("control plane address: %w", err)
		}
		if u.Scheme != "https" {
			return "", "", fmt.Errorf("control plane address %q: want https, or host:port alone", s)
		}
		if u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
			return "", "", fmt.Errorf("control plane address %q: want no more than https://host:port", s)
		}
		hostPort = u.Host
	}
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return "", "", fmt.Errorf("control plane address %q: want host:port: %w", s, err)
	}
	if _, err := net.LookupPort("tcp", port); err != nil || host == "" || port == "0" {
		return "", "", fmt.Errorf("control plane address %q: want a host and a port from 1 to 65535", s)
	}
	return hostPort, host, nil
}
