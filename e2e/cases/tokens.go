package cases

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	authentication "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/e2e/cluster"
	"github.com/ambit-mesh/ambit/internal/meshapi/caapi"
)

// tokenCases are about who gets what from the control plane, and how soon.
func tokenCases() []Case {
	return []Case{
		{Name: "spread", About: "a change of a pod reaches the proxies within 100 ms, but for one in a hundred", Run: spread},
		{Name: "tokens", About: "a certificate is for pods of the caller's node only: a wrong token, that of another node, that of a deleted pod and that of an ordinary pod are refused", Run: tokens},
	}
}

// addressURL is the type of workloads and services.
const addressURL = "type.googleapis.com/istio.workload.Address"

// asker asks the control plane, as whoever has a token.
type asker struct {
	e    *Env
	conn *grpc.ClientConn
}

// ask connects to one istiod-lite, through the API server.
func (e *Env) ask(ctx context.Context) (*asker, error) {
	roots, err := e.Kube.CoreV1().ConfigMaps(e.Namespace).Get(ctx, "istio-ca-root-cert", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(roots.Data["root-cert.pem"])) {
		return nil, errors.New("the ConfigMap istio-ca-root-cert holds no certificate")
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := e.Cluster.Kubectl(ctx, "--namespace", System, "port-forward", "service/istiod", ":15012")
	out, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	e.Undo(func(context.Context) error {
		cancel()
		cmd.Wait() // it was killed
		return nil
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("kubectl port-forward: %w", err)
	}
	_, rest, _ := strings.Cut(line, "Forwarding from ")
	address, _, ok := strings.Cut(rest, " ")
	if !ok {
		return nil, fmt.Errorf("kubectl port-forward says %q", line)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: pool, ServerName: "istiod." + System + ".svc", MinVersion: tls.VersionTLS13,
	})))
	if err != nil {
		return nil, err
	}
	e.Undo(func(context.Context) error { return conn.Close() })
	return &asker{e, conn}, nil
}

// certificate asks for one of a service account of the case.
func (a *asker) certificate(ctx context.Context, token, account string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), 20*time.Second)
	defer cancel()
	_, err = caapi.NewIstioCertificateServiceClient(a.conn).CreateCertificate(ctx, &caapi.IstioCertificateRequest{
		Csr:              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		ValidityDuration: 600,
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"ImpersonatedIdentity": structpb.NewStringValue("spiffe://cluster.local/ns/" + a.e.Namespace + "/sa/" + account),
		}},
	})
	return err
}

// subscribe asks for the picture of the mesh.
func (a *asker) subscribe(ctx context.Context, token string) error {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), 20*time.Second)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(a.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressURL}); err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

// token makes one of a service account, bound to a pod unless that is the zero Pod.
func (e *Env) token(ctx context.Context, namespace, account, audience string, p Pod) (string, error) {
	seconds := int64(600)
	spec := authentication.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &seconds}
	if p.Name != "" {
		pod, err := e.Kube.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		spec.BoundObjectRef = &authentication.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	answer, err := e.Kube.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authentication.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return answer.Status.Token, nil
}

// impostor is a pod with the account of the nodes' proxies.
const impostor = `
apiVersion: v1
kind: Pod
metadata: {name: ambit-e2e-impostor, namespace: %s, labels: {istio.io/dataplane-mode: none}}
spec:
  serviceAccountName: ztunnel
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: %s, imagePullPolicy: IfNotPresent}]
`

func tokens(ctx context.Context, e *Env) (string, error) {
	nodes := e.Cluster.Nodes()
	near, far := nodes[0].Name, nodes[len(nodes)-1].Name
	if err := e.Deploy(ctx, App{Name: "near", Node: near}, App{Name: "far", Node: far}); err != nil {
		return "", err
	}
	app, err := e.Pod(ctx, "near")
	if err != nil {
		return "", err
	}
	proxies, err := e.systemPods(ctx, ztunnels)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(proxies, func(p Pod) bool { return p.Node == near })
	if at < 0 {
		return "", fmt.Errorf("no ztunnel on node %s", near)
	}
	a, err := e.ask(ctx)
	if err != nil {
		return "", err
	}
	const audience = "istio-ca"
	expectations := []struct {
		who       string
		namespace string
		account   string
		audience  string
		pod       Pod
		asksFor   string
		want      codes.Code
	}{
		{"the node's proxy, for a pod of the node", System, "ztunnel", audience, proxies[at], "near", codes.OK},
		{"the same, for a pod of another node", System, "ztunnel", audience, proxies[at], "far", codes.PermissionDenied},
		{"a token for another audience", System, "ztunnel", "https://kubernetes.default.svc.cluster.local", proxies[at], "near", codes.Unauthenticated},
		{"a token that is bound to no pod", System, "ztunnel", audience, Pod{}, "near", codes.Unauthenticated},
		{"an ordinary pod, for another", e.Namespace, "near", audience, app, "far", codes.PermissionDenied},
	}
	for _, x := range expectations {
		token, err := e.token(ctx, x.namespace, x.account, x.audience, x.pod)
		if err != nil {
			return "", fmt.Errorf("%s: %w", x.who, err)
		}
		if err := a.certificate(ctx, token, x.asksFor); status.Code(err) != x.want {
			return "", fmt.Errorf("%s: %w, want %v", x.who, err, x.want)
		}
	}
	if err := a.certificate(ctx, "rubbish", "near"); status.Code(err) != codes.Unauthenticated {
		return "", fmt.Errorf("no token of this cluster: %w", err)
	}
	token, err := e.token(ctx, e.Namespace, "near", audience, app)
	if err != nil {
		return "", err
	}
	if err := a.subscribe(ctx, token); status.Code(err) != codes.PermissionDenied {
		return "", fmt.Errorf("an ordinary pod asks for the picture of the mesh: %w", err)
	}
	took, err := e.deletedPod(ctx, a, near)
	return fmt.Sprintf("1 granted, %d refused; the token of a deleted pod is refused after %v", len(expectations)+1, took.Round(time.Millisecond)), err
}

// deletedPod makes a pod of the proxies' account, sees that its token counts, and
// how long it does after the pod was deleted.
func (e *Env) deletedPod(ctx context.Context, a *asker, node string) (time.Duration, error) {
	pod := fmt.Sprintf(impostor, System, node, cluster.AppImage)
	remove := func(ctx context.Context) error {
		_, err := e.Kubectl(ctx, pod, "delete", "--namespace", System, "--ignore-not-found", "-f", "-")
		return err
	}
	e.Undo(remove)
	if _, err := e.Kubectl(ctx, pod, "apply", "--namespace", System, "-f", "-"); err != nil {
		return 0, err
	}
	token, err := e.token(ctx, System, "ztunnel", "istio-ca", Pod{Namespace: System, Name: "ambit-e2e-impostor"})
	if err != nil {
		return 0, err
	}
	if err := a.certificate(ctx, token, "near"); err != nil {
		return 0, fmt.Errorf("a pod of the proxies' account: %w", err)
	}
	if err := remove(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	err = e.Until(ctx, 10*time.Second, "the token of a deleted pod is refused", func(ctx context.Context) (bool, error) {
		return status.Code(a.certificate(ctx, token, "near")) == codes.Unauthenticated, nil
	})
	return time.Since(start), err
}
