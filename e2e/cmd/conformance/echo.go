package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"github.com/ambit-mesh/ambit/internal/images"
)

const (
	suiteModule = "sigs.k8s.io/gateway-api/conformance"
	echoSource  = "istio.io/istio/pkg/test/echo/cmd/"
)

// echoName finds the name under which the suite's manifests ask for the image.
var echoName = regexp.MustCompile(`(?m)image: (\S+/echo-advanced:\S+)$`)

// echoImage is the image of the echo servers.
type echoImage struct {
	name    string // under which the suite's manifests ask for it
	archive string // file
}

// buildEcho builds the echo server and client and puts them into an image of the
// name that the suite's manifests use.
func buildEcho(ctx context.Context, module, work string) (echo echoImage, err error) {
	dir, err := goIn(ctx, module, "list", "-m", "-f", "{{.Dir}}", suiteModule)
	if err != nil {
		return echo, err
	}
	manifests, err := os.ReadFile(filepath.Join(dir, "mesh", "manifests.yaml"))
	if err != nil {
		return echo, err
	}
	name := echoName.FindSubmatch(manifests)
	if name == nil {
		return echo, errors.New("the manifests of the suite name no image echo-advanced")
	}
	work, err = filepath.Abs(work)
	if err != nil {
		return echo, err
	}
	if _, err := goIn(ctx, module, "build", "-ldflags", "-s -w", "-o", work+string(filepath.Separator), echoSource+"client", echoSource+"server"); err != nil {
		return echo, err
	}
	if err := writeCertificate(filepath.Join(work, "cert.crt"), filepath.Join(work, "cert.key")); err != nil {
		return echo, err
	}
	files := []images.File{
		{Path: "/usr/local/bin/client", Source: filepath.Join(work, "client"), Mode: 0o755},
		{Path: "/usr/local/bin/server", Source: filepath.Join(work, "server"), Mode: 0o755},
		{Path: "/cert.crt", Source: filepath.Join(work, "cert.crt"), Mode: 0o644},
		{Path: "/cert.key", Source: filepath.Join(work, "cert.key"), Mode: 0o644},
	}
	image, err := images.Assemble(images.Spec{
		Arch: runtime.GOARCH, Entrypoint: []string{"/usr/local/bin/server"}, Env: []string{"PATH=/usr/local/bin"}, Date: time.Unix(0, 0), Files: files,
	})
	if err != nil {
		return echo, err
	}
	echo = echoImage{name: string(name[1]), archive: filepath.Join(work, "echo.tar")}
	f, err := os.Create(echo.archive)
	if err != nil {
		return echo, err
	}
	return echo, errors.Join(images.WriteArchive(f, images.Named{Image: image, Name: echo.name}), f.Close())
}

// writeCertificate makes a self-signed certificate, which nobody checks.
func writeCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"echo"}, NotAfter: time.Now().AddDate(1, 0, 0)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o644); err != nil {
			return fmt.Errorf("certificate of the echo servers: %w", err)
		}
	}
	return nil
}
