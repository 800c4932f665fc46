package netpol

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// settleFor is how long changes are gathered before the table is written.
	settleFor = 30 * time.Millisecond
	// repeatAfter is how long a table that could not be written waits.
	repeatAfter = time.Second
)

// Enforcer keeps a node's table at what the policies say.
type Enforcer struct {
	Node string
	Kube kubernetes.Interface
	Log  func(format string, args ...any)
}

// Run works until ctx ends. The table stays: a node whose enforcer restarts is not
// open meanwhile.
func (e *Enforcer) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	factory := informers.NewSharedInformerFactoryWithOptions(e.Kube, 0, informers.WithTransform(Slim))
	pods := factory.Core().V1().Pods()
	namespaces := factory.Core().V1().Namespaces()
	policies := factory.Networking().V1().NetworkPolicies()
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { poke() }, UpdateFunc: func(any, any) { poke() }, DeleteFunc: func(any) { poke() },
	}
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), namespaces.Informer(), policies.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("%v: not synchronised: %w", kind, context.Cause(ctx))
		}
	}
	read := func() (World, error) {
		w := World{Namespaces: map[string]labels.Set{}}
		var err error
		if w.Pods, err = pods.Lister().List(labels.Everything()); err != nil {
			return w, err
		}
		all, err := namespaces.Lister().List(labels.Everything())
		if err != nil {
			return w, err
		}
		for _, ns := range all {
			w.Namespaces[ns.Name] = ns.Labels
		}
		w.Policies, err = policies.Lister().List(labels.Everything())
		return w, err
	}
	poke()
	e.follow(ctx, changed, read)
	return nil
}

// follow writes the table after each change of what read returns.
func (e *Enforcer) follow(ctx context.Context, changed <-chan struct{}, read func() (World, error)) {
	written := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		if lifecycle.Sleep(ctx, settleFor) != nil {
			return
		}
		for {
			table, err := e.table(read)
			if err == nil && table != written {
				err = Write(ctx, table)
			}
			if err == nil {
				written = table
				break
			}
			e.Log("labnetpol: %v", err)
			if lifecycle.Sleep(ctx, repeatAfter) != nil {
				return
			}
		}
	}
}

// table is what is to be written now.
func (e *Enforcer) table(read func() (World, error)) (string, error) {
	w, err := read()
	if err != nil {
		return "", err
	}
	guards, err := Compile(w, e.Node)
	if err != nil {
		return "", err
	}
	return Table(guards), nil
}

// Write replaces the table in the network of the calling process.
func Write(ctx context.Context, table string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(table)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Slim drops of an object what no policy looks at, so that a large cluster fits.
func Slim(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Pod:
		o.ManagedFields, o.Spec.Volumes, o.Spec.InitContainers = nil, nil, nil
	case *corev1.Namespace:
		o.ManagedFields = nil
	case *networkingv1.NetworkPolicy:
		o.ManagedFields = nil
	}
	return obj, nil
}
