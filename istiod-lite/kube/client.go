package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

const (
	// queriesPerSecond and burst bound our requests to the API server. Our choice:
	// what a thousand nodes that come back at one moment need for their tokens.
	queriesPerSecond, burst = 200, 400

	// readTimeout bounds a live read: a caller waits for it.
	readTimeout = 5 * time.Second

	// againFirst and againMost are the first and the longest wait before something is
	// read again that could not be; the library makes up to twice as much of it. The
	// library's own longest is a minute: for so long after the API server was away a
	// new pod would be unknown to the mesh. Our choice: some requests a second from all
	// kinds together, and a few seconds late.
	againFirst, againMost = 500 * time.Millisecond, 5 * time.Second

	// inClusterNamespace says which namespace the process' pod is of.
	inClusterNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
)

// Config says which cluster, and as whom.
type Config struct {
	// Kubeconfig is a file. Empty: the cluster that the process runs in.
	Kubeconfig string
	// UserAgent is how the API server's log calls us. Empty means istiod-lite.
	UserAgent string
}

// Client talks to one API server. It may be used by many goroutines.
type Client struct {
	typed   kubernetes.Interface
	reviews kubernetes.Interface // for questions about tokens alone: strangers can cause them
	meta    metadata.Interface

	// For kinds that the typed clients do not know.
	config rest.Config
	http   *http.Client
	codecs serializer.CodecFactory
}

// Connect prepares a client. It sends nothing.
func Connect(cfg Config) (*Client, error) {
	config, err := loadConfig(cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = queriesPerSecond, burst
	config.UserAgent = cmp.Or(cfg.UserAgent, "istiod-lite")
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("kube: %w", err)
	}
	c := &Client{http: httpClient, config: *rest.CopyConfig(config), codecs: serializer.NewCodecFactory(newScheme())}
	binary := rest.CopyConfig(config)
	binary.ContentType = runtime.ContentTypeProtobuf
	binary.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	if c.typed, err = kubernetes.NewForConfigAndClient(binary, httpClient); err != nil {
		return nil, fmt.Errorf("kube: %w", err)
	}
	if c.reviews, err = kubernetes.NewForConfigAndClient(binary, httpClient); err != nil { // with a rate of its own
		return nil, fmt.Errorf("kube: %w", err)
	}
	if c.meta, err = metadata.NewForConfigAndClient(metadata.ConfigFor(binary), httpClient); err != nil {
		return nil, fmt.Errorf("kube: %w", err)
	}
	return c, nil
}

// loadConfig reads a file, or what the cluster gives to every pod.
func loadConfig(path string) (*rest.Config, error) {
	if path != "" {
		config, err := clientcmd.BuildConfigFromFlags("", path)
		if err != nil {
			return nil, fmt.Errorf("kubeconfig: %w", err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("this is no pod of a cluster: say which cluster by --kubeconfig")
	}
	return config, err
}

// reflecting is how a reflector of that name reads.
func reflecting(name string) cache.ReflectorOptions {
	return cache.ReflectorOptions{Name: name, Backoff: &wait.Backoff{
		Duration: againFirst, Cap: againMost, Steps: int(againMost / againFirst), Factor: 2, Jitter: 1,
	}}
}

// OwnNamespace is the namespace of the pod that the process runs in; empty
// outside of a cluster.
func OwnNamespace() string {
	text, err := os.ReadFile(inClusterNamespace)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// newScheme knows the Go types of the kinds that CustomResourceDefinitions make.
// All versions of a kind have one content, so that one type serves them all.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, k := range kinds() {
		for _, version := range k.versions {
			gv := schema.GroupVersion{Group: k.group, Version: version}
			if k.isCustom() {
				scheme.AddKnownTypeWithName(gv.WithKind(string(k.kind)), k.empty())
				scheme.AddKnownTypeWithName(gv.WithKind(string(k.kind)+"List"), k.emptyList())
			}
			metav1.AddToGroupVersion(scheme, gv)
		}
	}
	return scheme
}

// custom is a client for kinds of a group and version that has no typed one.
func (c *Client) custom(group, version string) (rest.Interface, error) {
	config := rest.CopyConfig(&c.config)
	config.GroupVersion = &schema.GroupVersion{Group: group, Version: version}
	config.APIPath = "/apis"
	config.NegotiatedSerializer = c.codecs.WithoutConversion()
	return rest.RESTClientForConfigAndClient(config, c.http)
}

// served is the first of the versions of a kind that the API server has now;
// empty when it has none.
func (c *Client) served(ctx context.Context, k *kind) (string, error) {
	for _, version := range k.versions {
		var list metav1.APIResourceList
		err := c.typed.Discovery().RESTClient().Get().AbsPath("/apis", k.group, version).Do(ctx).Into(&list)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("versions of %s: %w", k.kind, err)
		}
		for _, r := range list.APIResources {
			if r.Name == k.resource {
				return version, nil
			}
		}
	}
	return "", nil
}

// PodsOn asks the API server which pods a node runs now. Those that have ended
// are not among them.
func (c *Client) PodsOn(ctx context.Context, node string) ([]*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	selector := fields.AndSelectors(notEnded(), fields.OneTermEqualSelector("spec.nodeName", node))
	list, err := c.typed.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: selector.String()})
	if err != nil {
		return nil, err
	}
	var pods []*corev1.Pod
	for i := range list.Items {
		pods = append(pods, trimPod(&list.Items[i]))
	}
	return pods, nil
}

// Pod asks the API server for one pod; nil when there is none.
func (c *Client) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	pod, err := c.typed.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return trimPod(pod), nil
}

// Typed is the client for the kinds of Kubernetes itself.
func (c *Client) Typed() kubernetes.Interface { return c.typed }

// The Go types of custom kinds, so that a wrong one does not compile.
var (
	_ runtime.Object = (*security.AuthorizationPolicy)(nil)
	_ runtime.Object = (*networking.ServiceEntry)(nil)
	_ runtime.Object = (*gateway.Gateway)(nil)
)
