package cases

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/metadata"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// spreadChanges are made, one after the other.
	spreadChanges = 200
	// spreadWithin is how long the slowest of a hundred may take to reach a proxy.
	spreadWithin = 100 * time.Millisecond
)

// pictures is a subscription to who is where.
type pictures struct {
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
}

// follow subscribes as the holder of a token, until ctx ends.
func (a *asker) follow(ctx context.Context, token string) (*pictures, error) {
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(a.conn).DeltaAggregatedResources(
		metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token))
	if err != nil {
		return nil, err
	}
	node := &corev3.Node{Id: "ztunnel~127.0.0.1~e2e." + System + "~" + System + ".svc.cluster.local"}
	for _, url := range []string{addressURL, "type.googleapis.com/istio.security.Authorization"} {
		if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: url}); err != nil {
			return nil, err
		}
	}
	return &pictures{stream}, nil
}

// next waits until a resource comes.
func (p *pictures) next(name string) error {
	for {
		resp, err := p.stream.Recv()
		if err != nil {
			return err
		}
		if err := p.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce}); err != nil {
			return err
		}
		if slices.ContainsFunc(resp.Resources, func(r *discoveryv3.Resource) bool { return r.Name == name }) {
			return nil
		}
	}
}

func spread(ctx context.Context, e *Env) (string, error) {
	if err := e.Deploy(ctx, App{Name: "server"}); err != nil {
		return "", err
	}
	pod, err := e.Pod(ctx, "server")
	if err != nil {
		return "", err
	}
	proxies, err := e.systemPods(ctx, ztunnels)
	if err != nil {
		return "", err
	}
	if len(proxies) == 0 {
		return "", errors.New("no ztunnel")
	}
	token, err := e.token(ctx, System, "ztunnel", "istio-ca", proxies[0])
	if err != nil {
		return "", err
	}
	a, err := e.ask(ctx)
	if err != nil {
		return "", err
	}
	p, err := a.follow(ctx, token)
	if err != nil {
		return "", err
	}
	name := "Kubernetes//Pod/" + pod.Namespace + "/" + pod.Name
	if err := p.next(name); err != nil {
		return "", err
	}
	var lags []time.Duration
	for i := range spreadChanges {
		patch := fmt.Sprintf(`{"metadata":{"labels":{"version":"v%d"}}}`, i)
		if _, err := e.Kube.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return "", err
		}
		start := time.Now()
		if err := p.next(name); err != nil {
			return "", err
		}
		lags = append(lags, time.Since(start))
	}
	slices.Sort(lags)
	median, slow := lags[len(lags)/2], lags[len(lags)*99/100]
	evidence := fmt.Sprintf("%d changes of a pod were at a proxy after %v (median) and %v (p99)", spreadChanges, median.Round(100*time.Microsecond), slow.Round(100*time.Microsecond))
	if slow > spreadWithin {
		return "", fmt.Errorf("%s, want at most %v", evidence, spreadWithin)
	}
	return evidence, nil
}
