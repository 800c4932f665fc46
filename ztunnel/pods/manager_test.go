package pods

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/workloadapi"
	"github.com/ambit-mesh/ambit/internal/netns"
	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/internal/zds"
	"github.com/ambit-mesh/ambit/ztunnel/admin"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
)

// Package streamio keeps empty pipes for later use: at most 64.
func TestMain(m *testing.M) { netnstest.MainSparing(m, map[string]int{"pipe:": 2 * 64}) }

// patience bounds every wait. It is only reached when something is wrong.
const patience = 10 * time.Second

// bench is a running Manager and what stands around it.
type bench struct {
	*Manager
	t     *testing.T
	ca    *testCA
	state *workload.Store
	gate  *policy.Gate
	ready *admin.Readiness
	reg   *prometheus.Registry
	stop  context.CancelFunc
	done  chan struct{}
}

// newBench starts a Manager that retries pending pods every 50 ms.
func newBench(t *testing.T, tune ...func(*Config)) *bench {
	t.Helper()
	netnstest.Require(t)
	b := &bench{t: t, ca: newCA(t), ready: new(admin.Readiness), reg: prometheus.NewRegistry(), done: make(chan struct{})}
	records, err := telemetry.NewRecords(telemetry.Config{}, telemetry.Deps{Log: zap.NewNop(), Registry: b.reg})
	if err != nil {
		t.Fatal(err)
	}
	b.state = workload.NewStore(workload.Config{})
	b.gate = policy.NewGate(b.state, policy.GateConfig{})
	ids, err := identity.NewManager(identity.ManagerConfig{}, b.ca)
	if err != nil {
		t.Fatal(err)
	}
	acked := make(chan struct{})
	close(acked)
	cfg := Config{Retry: 50 * time.Millisecond}
	for _, f := range tune {
		f(&cfg)
	}
	b.Manager, err = New(cfg, Deps{
		Log: zap.NewNop(), Registry: b.reg, Records: records, State: b.state, Gate: b.gate, Certs: ids, Ready: b.ready, Acked: acked,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.state.OnChange(b.PictureChanged)
	ids.OnChange(b.CertificateChanged)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	idsCtx, stopIDs := context.WithCancel(context.WithoutCancel(t.Context()))
	idsDone := make(chan struct{})
	b.stop = cancel
	go func() {
		defer close(b.done)
		if err := b.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	go func() {
		defer close(idsDone)
		_ = ids.Run(idsCtx)
	}()
	t.Cleanup(func() {
		b.stop()
		<-b.done
		stopIDs()
		<-idsDone
	})
	return b
}

// testCA signs what is asked for. Which root it signs with, and which roots it
// hands out, can change.
type testCA struct {
	mu    sync.Mutex
	sign  *root
	trust []*root
}

// root is a self-signed certificate and its key.
type root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newCA(t *testing.T) *testCA {
	r := newRoot(t, "first")
	return &testCA{sign: r, trust: []*root{r}}
}

func newRoot(t *testing.T, name string) *root {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &root{cert: cert, key: key, pem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// use makes the CA sign with one root and hand out others.
func (ca *testCA) use(sign *root, trust ...*root) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.sign, ca.trust = sign, trust
}

// Fetch signs a certificate for id.
func (ca *testCA) Fetch(_ context.Context, id identity.ID) (*identity.Certificate, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{uri},
	}, ca.sign.cert, &key.PublicKey, ca.sign.key)
	if err != nil {
		return nil, err
	}
	roots := ""
	for _, r := range ca.trust {
		roots += r.pem
	}
	leaf := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return identity.NewCertificate(id, []string{leaf, roots}, crypto.Signer(key))
}

// info is that of the pod of that name.
func info(name string) zds.Info {
	return zds.Info{Name: name, Namespace: "shop", ServiceAccount: name}
}

// add hands the pod uid with that namespace over.
func (b *bench) add(uid string, ns *netns.NS) error {
	b.t.Helper()
	clone, err := ns.Clone()
	if err != nil {
		b.t.Fatal(err)
	}
	return b.Add(b.t.Context(), uid, info(uid), clone)
}

// mustAdd is add, for pods that have no reason to fail.
func (b *bench) mustAdd(uid string, ns *netns.NS) {
	b.t.Helper()
	if err := b.add(uid, ns); err != nil {
		b.t.Fatalf("Add %s: %v", uid, err)
	}
}

// del takes the pod uid away.
func (b *bench) del(uid string) {
	b.t.Helper()
	if err := b.Del(b.t.Context(), uid); err != nil {
		b.t.Fatalf("Del %s: %v", uid, err)
	}
}

// snapshot says that these are all pods.
func (b *bench) snapshotOf(uids ...string) {
	b.t.Helper()
	present := map[string]bool{}
	for _, uid := range uids {
		present[uid] = true
	}
	if err := b.Snapshot(b.t.Context(), present); err != nil {
		b.t.Fatalf("Snapshot: %v", err)
	}
}

// wantPods wants these pods, each as "uid up" or "uid pending".
func (b *bench) wantPods(want ...string) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("pods are %q", want), func() error {
		var got []string
		for _, p := range b.Pods() {
			state := "pending"
			if p.Up {
				state = "up"
			}
			got = append(got, p.UID+" "+state)
		}
		if strings.Join(got, ", ") != strings.Join(want, ", ") {
			return fmt.Errorf("they are %q", got)
		}
		return nil
	})
}

// wantListeners wants the pod's ports to be open in ns, or closed.
func wantListeners(t *testing.T, ns *netns.NS, open bool) {
	t.Helper()
	for _, port := range []uint16{capture.PortOutbound, capture.PortPlaintext, capture.PortHBONE} {
		c, err := ns.Dial(t.Context(), netns.DialOptions{Remote: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)})
		if err == nil {
			c.Close()
		}
		// What is not redirected is reset as soon as it is taken: that is open too.
		if errors.Is(err, syscall.ECONNREFUSED) == open {
			t.Errorf("port %d: dial says %v, want open = %v", port, err, open)
		}
	}
}

// wantCount wants the counters of pods that were started and stopped.
func (b *bench) wantCount(started, stopped float64) {
	b.t.Helper()
	if got := testutil.ToFloat64(b.metrics.Started); got != started {
		b.t.Errorf("%v pods started, want %v", got, started)
	}
	if got := testutil.ToFloat64(b.metrics.Stopped); got != stopped {
		b.t.Errorf("%v pods stopped, want %v", got, stopped)
	}
}

// squat takes a port of the mesh in ns, alone.
func squat(t *testing.T, ns *netns.NS) net.Listener {
	t.Helper()
	l, err := ns.Listen(t.Context(), "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), capture.PortHBONE),
		netns.SocketOptions{NoMark: true, Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// tell makes the control plane know pods: uid and address.
func (b *bench) tell(pods map[string]netip.Addr) {
	b.t.Helper()
	var rs []*discoveryv3.Resource
	for name, ip := range pods {
		w := &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: &workloadapi.Workload{
			Uid: "Kubernetes//Pod/shop/" + name, Name: name, Namespace: "shop", ServiceAccount: name,
			TrustDomain: "cluster.local", Addresses: [][]byte{ip.AsSlice()},
			TunnelProtocol: workloadapi.TunnelProtocol_HBONE,
		}}}
		raw, err := anypb.New(w)
		if err != nil {
			b.t.Fatal(err)
		}
		rs = append(rs, &discoveryv3.Resource{Name: "Kubernetes//Pod/shop/" + name, Resource: raw})
	}
	if bad := b.state.ApplyAddresses(rs, nil); len(bad) > 0 {
		b.t.Fatal(bad)
	}
}
