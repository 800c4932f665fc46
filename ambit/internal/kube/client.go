package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// Requests that a person's command may make, per second and at once: a check of
// a large cluster asks for every pod's port.
const (
	requestsPerSecond = 100
	requestsAtOnce    = 200

	// pageSize is how many objects one answer holds at most.
	pageSize = 500

	// requestTimeout bounds one answer of the API server.
	requestTimeout = 30 * time.Second
)

// Config says which cluster. The zero Config is the one kubectl would take.
type Config struct {
	Kubeconfig string // file; empty means $KUBECONFIG, then ~/.kube/config, then the pod this runs in
	Context    string // of that file; empty means its current one
}

// Client speaks to one cluster. It may be used from many goroutines.
type Client struct {
	REST    *rest.Config
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface

	// Namespace is the one that the kubeconfig's context names, else default. Empty
	// for a client that was made of no kubeconfig.
	Namespace string

	mapper *restmapper.DeferredDiscoveryRESTMapper
	pods   *rest.RESTClient // what port forwarding goes through
}

// ErrNoCluster means that nothing says which cluster.
var ErrNoCluster = errors.New("no cluster: set KUBECONFIG or --kubeconfig (ambit lab up builds one on this machine)")

// Connect makes a client of the cluster that cfg names. It speaks to nobody yet.
func Connect(cfg Config) (*Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = cfg.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: cfg.Context})
	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, ErrNoCluster
	}
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.QPS, config.Burst, config.Timeout = requestsPerSecond, requestsAtOnce, requestTimeout
	config.UserAgent = "ambit"
	config.WarningHandlerWithContext = rest.NoWarnings{}
	client, err := New(config)
	if err != nil {
		return nil, err
	}
	if client.Namespace, _, err = loader.Namespace(); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return client, nil
}

// New makes a client of config.
func New(config *rest.Config) (*Client, error) {
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	untyped, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	pods, ok := typed.CoreV1().RESTClient().(*rest.RESTClient)
	if !ok {
		return nil, errors.New("the client of client-go has no REST client")
	}
	return &Client{
		REST: config, Kube: typed, Dynamic: untyped, pods: pods,
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(typed.Discovery())),
	}, nil
}

// Version asks for the version of the cluster, such as v1.36.3. It is the first
// thing to ask: its error says in words why the cluster cannot be reached.
func (c *Client) Version() (string, error) {
	v, err := c.Kube.Discovery().ServerVersion()
	if apierrors.IsUnauthorized(err) {
		return "", fmt.Errorf("the API server at %s does not know you: %w", c.REST.Host, err)
	}
	if err != nil {
		return "", fmt.Errorf("the API server at %s does not answer: %w", c.REST.Host, err)
	}
	return v.GitVersion, nil
}

// Resource returns the way to objects of the kind of o, in o's namespace.
func (c *Client) Resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset() // its definition may be newer than what was remembered
		mapping, err = c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("kind %s: %w", gvk.Kind, err)
	}
	resource := c.Dynamic.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return resource.Namespace(o.GetNamespace()), nil
	}
	return resource, nil
}

// Knows tells whether the cluster has the kind of o. Errors count as no.
func (c *Client) Knows(o *unstructured.Unstructured) bool {
	_, err := c.Resource(o)
	return err == nil
}

// All lists by pages and calls each for every item.
func All[L any, T any](ctx context.Context, list func(context.Context, metav1.ListOptions) (*L, error), items func(*L) ([]T, string), options metav1.ListOptions, each func(*T)) error {
	if options.Limit == 0 {
		options.Limit = pageSize
	}
	for {
		page, err := list(ctx, options)
		if err != nil {
			return err
		}
		found, next := items(page)
		for i := range found {
			each(&found[i])
		}
		if next == "" {
			return nil
		}
		options.Continue = next
	}
}
