package grpcclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestAddress(t *testing.T) {
	for _, tt := range []struct{ in, hostPort, host, err string }{
		{in: "https://istiod.istio-system.svc:15012", hostPort: "istiod.istio-system.svc:15012", host: "istiod.istio-system.svc"},
		{in: "https://10.0.0.1:15012/", hostPort: "10.0.0.1:15012", host: "10.0.0.1"},
		{in: "istiod:15012", hostPort: "istiod:15012", host: "istiod"},
		{in: "[2001:db8::1]:15012", hostPort: "[2001:db8::1]:15012", host: "2001:db8::1"},
		{in: "", err: "is empty"},
		{in: "http://istiod:15010", err: "want https"},
		{in: "https://istiod", err: "want host:port"},
		{in: "istiod", err: "want host:port"},
		{in: ":15012", err: "want a host"},
		{in: "istiod:0", err: "from 1 to 65535"},
		{in: "istiod:99999", err: "from 1 to 65535"},
		{in: "https://me@istiod:1", err: "no more than"},
		{in: "https://istiod:1/x", err: "no more than"},
	} {
		t.Run(tt.in, func(t *testing.T) {
			hostPort, host, err := parseAddress(tt.in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || hostPort != tt.hostPort || host != tt.host {
				t.Errorf("= %q, %q, %v, want %q, %q", hostPort, host, err, tt.hostPort, tt.host)
			}
		})
	}
}

func TestDialRefusesABadConfig(t *testing.T) {
	good := Config{Address: "istiod:15012", RootCA: "SYSTEM"}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no roots", func(c *Config) { c.RootCA = "" }, "roots are not set"},
		{"PEM text without a certificate", func(c *Config) { c.RootCA = "-----BEGIN NOTHING-----" }, "no PEM certificate"},
		{"header of gRPC", func(c *Config) { c.Headers = map[string]string{"grpc-timeout": "1"} }, "reserved"},
		{"binary header", func(c *Config) { c.Headers = map[string]string{"x-bin": "1"} }, "reserved"},
		{"header with a colon", func(c *Config) { c.Headers = map[string]string{":path": "1"} }, "header name"},
		{"header with a line break", func(c *Config) { c.Headers = map[string]string{"x": "a\r\nb"} }, "cannot carry"},
		{"authorization as header", func(c *Config) { c.Headers = map[string]string{"Authorization": "x"} }, "cannot be set"},
		{"token with a line break", func(c *Config) { c.Token = "secret-a\nb" }, "cannot carry"},
		{"cluster with a line break", func(c *Config) { c.ClusterID = "a\nb" }, "cannot carry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			cc, err := Dial(cfg)
			if err == nil {
				cc.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret-") {
				t.Errorf("error %v, want one with %q and without the token", err, tt.want)
			}
		})
	}
}

func TestCallsCarryTokenClusterAndHeaders(t *testing.T) {
	a := newAuthority(t)
	s := serve(t, "127.0.0.1:0", a.serving(t))
	token := filepath.Join(t.TempDir(), "token")
	cc := dial(t, Config{
		Address: "https://" + s.addr, RootCA: a.pem, Token: token, ClusterID: "Kubernetes", Headers: map[string]string{"X-Extra": "one, two"},
	})

	if err := call(t, cc, false); err == nil || !strings.Contains(err.Error(), "no such file") || s.last() != nil {
		t.Errorf("without a token file: %v, want the call not made", err)
	}
	write(t, token, "  \n")
	if err := call(t, cc, false); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("with an empty token file: %v", err)
	}
	write(t, token, "first\n")
	if err := call(t, cc, false); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"authorization": "Bearer first", "clusterid": "Kubernetes", "x-extra": "one, two"} {
		if got := s.last().Get(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	write(t, token, "second")
	if err := call(t, cc, false); err != nil || s.last().Get("authorization")[0] != "Bearer second" {
		t.Errorf("after the token changed: %v, %v", err, s.last())
	}
}

func TestALiteralTokenAndNone(t *testing.T) {
	a := newAuthority(t)
	s := serve(t, "127.0.0.1:0", a.serving(t))
	if err := call(t, dial(t, Config{Address: s.addr, RootCA: a.pem, Token: "literal/with+slash=="}), false); err != nil || s.last().Get("authorization")[0] != "Bearer literal/with+slash==" {
		t.Errorf("literal: %v, %v", err, s.last())
	}
	if err := call(t, dial(t, Config{Address: s.addr, RootCA: a.pem}), false); err != nil || len(s.last().Get("authorization")) != 0 || len(s.last().Get("clusterid")) != 0 {
		t.Errorf("none: %v, %v", err, s.last())
	}
}

func TestServerIsVerified(t *testing.T) {
	a := newAuthority(t)
	s := serve(t, "127.0.0.1:0", a.serving(t, "istiod.istio-system.svc"))
	for _, tt := range []struct {
		name, root, server, want string
	}{
		{"address in the certificate", a.pem, "", ""},
		{"name in the certificate", a.pem, "istiod.istio-system.svc", ""},
		{"another name", a.pem, "thief.example", "not thief.example"},
		{"another root", newAuthority(t).pem, "", "unknown authority"},
		{"roots of the system", "SYSTEM", "", "unknown authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := call(t, dial(t, Config{Address: s.addr, RootCA: tt.root, ServerName: tt.server}), false)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("call: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestRootFileIsReadAtEachHandshake(t *testing.T) {
	before, after := newAuthority(t), newAuthority(t)
	root := filepath.Join(t.TempDir(), "root-cert.pem")
	s := serve(t, "127.0.0.1:0", before.serving(t))
	cc := dial(t, Config{Address: s.addr, RootCA: root})
	if err := call(t, cc, false); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without the file: %v", err)
	}
	write(t, root, before.pem)
	if err := call(t, cc, true); err != nil {
		t.Fatalf("after the file has come: %v", err)
	}
	write(t, root, after.pem)
	if err := call(t, cc, false); err != nil {
		t.Errorf("a live connection was dropped when the file changed: %v", err)
	}
	s.stop()
	s = serve(t, s.addr, after.serving(t))
	err := call(t, cc, true)
	if status.Code(err) == codes.Unavailable { // it saw the end of the old connection
		err = call(t, cc, true)
	}
	if err != nil {
		t.Errorf("a new connection does not use the new root: %v", err)
	}
	s.stop()
	s = serve(t, s.addr, before.serving(t))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil { // it may still see the end of the old connection
		if err := call(t, cc, false); status.Code(err) != codes.Unavailable {
			t.Fatalf("a root that is no longer in the file is trusted: %v", err)
		}
	}
	if s.last() != nil {
		t.Error("a server of the old root got a call")
	}
}

// The token is a secret: a server that does not speak TLS must not get it.
func TestTokenIsNeverSentInTheClear(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	got := make(chan []byte, 1)
	wg.Go(func() {
		conn, err := ln.Accept()
		if err != nil {
			got <- nil
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}); err != nil { // HTTP/2 SETTINGS
			t.Error(err)
		}
		data, _ := io.ReadAll(conn)
		got <- data
	})
	cc := dial(t, Config{Address: ln.Addr().String(), RootCA: "SYSTEM", Token: "very-secret"})
	if err := call(t, cc, false); err == nil {
		t.Error("a call to a plaintext server succeeds")
	}
	cc.Close()
	if data := <-got; len(data) == 0 || bytes.Contains(data, []byte("very-secret")) {
		t.Errorf("a plaintext server got %q", data)
	}
	wg.Wait()
}

func TestLargeAnswersAreTaken(t *testing.T) {
	a := newAuthority(t)
	s := serve(t, "127.0.0.1:0", a.serving(t))
	s.answer = []string{strings.Repeat("x", 32<<20)}
	if err := call(t, dial(t, Config{Address: s.addr, RootCA: a.pem}), false); err != nil {
		t.Errorf("an answer of 32 MiB: %v", err)
	}
}

func TestHandshakeWithASilentServerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, err := newTransport("SYSTEM", "istiod")
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		defer theirs.Close()
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(io.Discard, theirs) }) // it listens and says nothing
		start := time.Now()
		_, _, err = tr.Clone().ClientHandshake(t.Context(), "istiod", ours)
		if err == nil || time.Since(start) != connectTimeout {
			t.Errorf("handshake: %v after %v, want an error after %v", err, time.Since(start), connectTimeout)
		}
		ours.Close()
		wg.Wait()
	})
}

func TestFilesAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, strings.Repeat("x", maxToken+1))
	if _, err := readToken(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a huge token: %v", err)
	}
	if _, err := readToken(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
