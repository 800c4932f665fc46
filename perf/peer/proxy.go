package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Proxy is a plain proxy of TCP.
type Proxy struct {
	Name string // haproxy or nginx
	TLS  bool   // between the hops
}

// Route is one port of a proxy.
type Route struct {
	Listen, To    netip.AddrPort
	TLSIn, TLSOut bool
}

// streamModules is where distributions put the part of nginx that carries TCP.
var streamModules = []string{
	"/usr/lib/nginx/modules/ngx_stream_module.so",
	"/usr/lib64/nginx/modules/ngx_stream_module.so",
	"/usr/share/nginx/modules/ngx_stream_module.so",
}

// maxConns is how many connections a proxy must carry at a time; each takes two
// descriptors, of which a process often may have no more than 20,000.
const maxConns = 8000

// Find returns where the program is, and which. The error says how to get it.
func (p Proxy) Find(ctx context.Context) (path, version string, err error) {
	path, err = exec.LookPath(p.Name)
	if err != nil {
		path = filepath.Join("/usr/sbin", p.Name)
		if _, err := os.Stat(path); err != nil {
			return "", "", fmt.Errorf("%s is not installed: apt-get install %s", p.Name, p.packages())
		}
	}
	if p.Name == "nginx" {
		if _, err := streamModule(ctx, path); err != nil {
			return "", "", err
		}
	}
	out, err := exec.CommandContext(ctx, path, "-v").CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("%s -v: %w", path, err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return path, first, nil
}

// packages are those of Debian that hold the program.
func (p Proxy) packages() string {
	if p.Name == "nginx" {
		return "nginx-light libnginx-mod-stream"
	}
	return p.Name
}

// builtInStream is how `nginx -V` says that it carries TCP without a module.
var builtInStream = regexp.MustCompile(`--with-stream( |$)`)

// streamModule returns the line of the configuration that loads the module for
// TCP; empty when it is built in.
func streamModule(ctx context.Context, path string) (line string, err error) {
	for _, m := range streamModules {
		if _, err := os.Stat(m); err == nil {
			return "load_module " + m + ";\n", nil
		}
	}
	out, err := exec.CommandContext(ctx, path, "-V").CombinedOutput()
	if err == nil && builtInStream.Match(out) {
		return "", nil
	}
	return "", errors.New("nginx is installed without its stream module: apt-get install libnginx-mod-stream")
}

// Command writes the configuration of one hop to dir and returns how to run it
// in the foreground.
func (p Proxy) Command(ctx context.Context, dir string, routes []Route) (path string, args []string, err error) {
	path, _, err = p.Find(ctx)
	if err != nil {
		return "", nil, err
	}
	conf := filepath.Join(dir, p.String()+".conf")
	switch p.Name {
	case "haproxy":
		return path, []string{"-db", "-f", conf}, os.WriteFile(conf, []byte(haproxyConfig(dir, routes)), 0o600)
	case "nginx":
		load, err := streamModule(ctx, path)
		if err != nil {
			return "", nil, err
		}
		return path, []string{"-c", conf, "-p", dir, "-e", "stderr"}, os.WriteFile(conf, []byte(load+nginxConfig(dir, routes)), 0o600)
	}
	return "", nil, fmt.Errorf("no proxy is called %q", p.Name)
}

// String is the name of the variant.
func (p Proxy) String() string {
	if p.TLS {
		return p.Name + "-tls"
	}
	return p.Name
}

// haproxyConfig is the configuration of haproxy. Source: its Configuration
// Manual, sections 3 to 5.
func haproxyConfig(dir string, routes []Route) string {
	var b strings.Builder
	fmt.Fprintf(&b, `global
  maxconn %d
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
`, maxConns)
	for i, r := range routes {
		fmt.Fprintf(&b, "listen route%d\n  bind %v", i, r.Listen)
		if r.TLSIn {
			fmt.Fprintf(&b, " ssl crt %s ca-file %s verify required ssl-min-ver TLSv1.3", pairFile(dir), rootFile(dir))
		}
		fmt.Fprintf(&b, "\n  server next %v", r.To)
		if r.TLSOut {
			fmt.Fprintf(&b, " ssl crt %s ca-file %s verify required verifyhost %s ssl-min-ver TLSv1.3", pairFile(dir), rootFile(dir), serverName)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// nginxConfig is the configuration of nginx. Source: the reference of its modules
// ngx_stream_proxy_module and ngx_stream_ssl_module.
func nginxConfig(dir string, routes []Route) string {
	var b strings.Builder
	fmt.Fprintf(&b, `daemon off;
user root;
pid %s;
error_log stderr crit;
worker_processes auto;
worker_rlimit_nofile %d;
events { worker_connections %d; }
stream {
`, filepath.Join(dir, "nginx.pid"), 2*maxConns+1000, 2*maxConns)
	for _, r := range routes {
		ssl := ""
		if r.TLSIn {
			ssl = " ssl"
		}
		fmt.Fprintf(&b, "  server {\n    listen %v%s;\n    proxy_pass %v;\n    proxy_timeout 1h;\n", r.Listen, ssl, r.To)
		if r.TLSIn {
			fmt.Fprintf(&b, "    ssl_protocols TLSv1.3;\n    ssl_certificate %s;\n    ssl_certificate_key %[1]s;\n    ssl_client_certificate %s;\n    ssl_verify_client on;\n",
				pairFile(dir), rootFile(dir))
		}
		if r.TLSOut {
			fmt.Fprintf(&b, "    proxy_ssl on;\n    proxy_ssl_protocols TLSv1.3;\n    proxy_ssl_certificate %s;\n    proxy_ssl_certificate_key %[1]s;\n"+
				"    proxy_ssl_trusted_certificate %s;\n    proxy_ssl_verify on;\n    proxy_ssl_name %s;\n", pairFile(dir), rootFile(dir), serverName)
		}
		b.WriteString("  }\n")
	}
	b.WriteString("}\n")
	return b.String()
}
