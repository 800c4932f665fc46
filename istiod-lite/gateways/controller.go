package gateways

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"istio.io/api/label"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

const (
	// manager is who the API server notes as owner of the fields that we apply.
	manager = "istiod-lite-gateways"
	// scaler is who it notes as owner of the number of instances, which an autoscaler
	// changes: what it says once is not said again.
	scaler = "istiod-lite-replicas"
	// workers is how many objects are worked on at a time.
	workers = 2
	// tryAgain and tryAgainMost space out tries of what cannot be done.
	tryAgain, tryAgainMost = 200 * time.Millisecond, 30 * time.Second
	// workTime bounds the work on one object.
	workTime = 30 * time.Second
	// lookAgain is how often ConfigMaps of parameters are read again, and how soon
	// the classes are made after the definitions have come.
	lookAgain = 15 * time.Second
)

// World tells which objects there are, and what their authors should know.
type World interface {
	// Look is an object, nil when there is none, and what its author should know.
	Look(key model.Key) (model.Object, []model.Condition)
	// Keys are the names of all objects of a kind.
	Keys(kind model.Kind) []model.Key
	// AttachedRoutes counts the routes of a listener of a Gateway.
	AttachedRoutes(key model.Key, listener gateway.Listener) int32
	// Known is closed when the first picture stands.
	Known() <-chan struct{}
}

// Config tunes a [Controller].
type Config struct {
	// Settings are those of the installation. Without an image no waypoint is made.
	Settings Settings
	// Mesh is what waypoints must know.
	Mesh Mesh
}

// Deps are the collaborators of a [Controller]. All fields are required.
type Deps struct {
	Client  *kube.Client
	Version func(model.Kind) string // that of a kind which is served; empty: none
	World   World
	Log     *zap.Logger
	Metrics prometheus.Registerer
}

// Controller makes waypoints. It may be used by many goroutines.
type Controller struct {
	// Set by New, then only read.
	cfg  Config
	deps Deps
	log  *zap.Logger
	made *prometheus.CounterVec

	// mu guards the fields below.
	mu      sync.Mutex
	queue   workqueue.TypedRateLimitingInterface[model.Key] // nil while another replica leads
	applied map[model.Key]string                            // what stands, as we applied it
	failed  map[model.Key]string                            // why something could not be made
}

// New wires a Controller. It starts nothing.
func New(cfg Config, deps Deps) *Controller {
	return &Controller{
		cfg: cfg, deps: deps, log: deps.Log.Named("gateways"),
		applied: map[model.Key]string{}, failed: map[model.Key]string{},
		made: promauto.With(deps.Metrics).NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_waypoints_applied_total", Help: "How often what a Gateway consists of was applied, and could not be.",
		}, []string{"result"}),
	}
}

// Lead makes waypoints until ctx ends. It runs on the elected replica only.
func (c *Controller) Lead(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-c.deps.World.Known():
	}
	var parts lifecycle.Group
	defer parts.Wait()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[model.Key](tryAgain, tryAgainMost))
	defer queue.ShutDown()
	c.begin(queue)
	defer c.begin(nil)
	c.enqueue(classKeys()...)
	c.enqueue(c.deps.World.Keys(model.KindGateway)...)
	c.enqueue(c.deps.World.Keys(model.KindGatewayClass)...)
	parts.Go(ctx, "gateways-made", func(ctx context.Context) { c.deps.Client.FollowMade(ctx, Selector, c.drifted) })
	parts.Go(ctx, "gateways-parameters", c.followParameters)
	for range workers {
		parts.Go(ctx, "gateways-work", func(ctx context.Context) { c.work(ctx, queue) })
	}
	<-ctx.Done()
}

// begin starts with an empty memory; nil ends.
func (c *Controller) begin(q workqueue.TypedRateLimitingInterface[model.Key]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = q
	clear(c.applied)
	clear(c.failed)
}

// classKeys are the classes that we make.
func classKeys() []model.Key {
	return []model.Key{
		{Kind: model.KindGatewayClass, Name: model.WaypointClass},
		{Kind: model.KindGatewayClass, Name: model.IstioWaypointClass},
	}
}

// enqueue notes objects that are to be looked at.
func (c *Controller) enqueue(keys ...model.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue == nil {
		return // whoever begins to lead looks at everything
	}
	for _, key := range keys {
		c.queue.Add(key)
	}
}

// allGateways stands in the queue for all of them: who tells of events holds the
// world, so that it cannot be asked meanwhile.
var allGateways = model.Key{Kind: model.KindGateway}

// Notice is told of events and of what they changed. It does not wait, and asks
// nobody.
func (c *Controller) Notice(events []model.Event, changes []model.Change) {
	for _, e := range events {
		switch e.Key.Kind {
		case model.KindGateway, model.KindGatewayClass:
			c.enqueue(e.Key)
		}
		if strings.HasSuffix(string(e.Key.Kind), "Route") || e.Key.Kind == model.KindGatewayClass {
			c.enqueue(allGateways)
		}
	}
	for _, change := range changes {
		if k := change.Object.Kind; change.Type == model.TypeCondition && (k == model.KindGateway || k == model.KindGatewayClass) {
			c.enqueue(change.Object)
		}
	}
}

// drifted is told of something that we made and somebody has changed or removed.
func (c *Controller) drifted(o metav1.Object) {
	key := model.Key{Kind: model.KindGateway, Namespace: o.GetNamespace(), Name: o.GetLabels()[label.IoK8sNetworkingGatewayGatewayName.Name]}
	c.mu.Lock()
	delete(c.applied, key)
	c.mu.Unlock()
	c.enqueue(key)
}

// followParameters looks again at the Gateways that have parameters, which nobody
// tells us of, and at the classes.
func (c *Controller) followParameters(ctx context.Context) {
	for lifecycle.Sleep(ctx, lookAgain) == nil {
		c.enqueue(classKeys()...)
		for _, key := range c.deps.World.Keys(model.KindGateway) {
			if g, class := c.managed(key); g != nil && (class.Spec.ParametersRef != nil || g.Spec.Infrastructure != nil && g.Spec.Infrastructure.ParametersRef != nil) {
				c.enqueue(key)
			}
		}
	}
}

// managed is a Gateway of a class of ours, and the class; nil when it is not.
func (c *Controller) managed(key model.Key) (*gateway.Gateway, *gateway.GatewayClass) {
	o, _ := c.deps.World.Look(key)
	g, ok := o.(*gateway.Gateway)
	if !ok {
		return nil, nil
	}
	o, _ = c.deps.World.Look(model.Key{Kind: model.KindGatewayClass, Name: string(g.Spec.GatewayClassName)})
	class, ok := o.(*gateway.GatewayClass)
	if !ok || class.Spec.ControllerName != model.WaypointController {
		return nil, nil
	}
	return g, class
}

// work works on objects until the queue ends.
func (c *Controller) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[model.Key]) {
	for ctx.Err() == nil {
		key, shutDown := queue.Get()
		if shutDown {
			return
		}
		switch err := c.reconcile(ctx, key); {
		case err == nil:
			queue.Forget(key)
		case ctx.Err() == nil:
			if queue.NumRequeues(key) == 0 {
				c.log.Warn("not done, will be tried again", zap.Stringer("object", key), zap.Error(err))
			}
			queue.AddRateLimited(key)
		}
		queue.Done(key)
	}
}

// reconcile does what one object needs.
func (c *Controller) reconcile(ctx context.Context, key model.Key) error {
	ctx, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	if key.Kind == model.KindGatewayClass {
		return c.keepClass(ctx, key)
	}
	if key == allGateways {
		c.enqueue(c.deps.World.Keys(model.KindGateway)...)
		return nil
	}
	g, class := c.managed(key)
	if g == nil || g.DeletionTimestamp != nil {
		c.forget(key)
		return nil
	}
	_, conditions := c.deps.World.Look(key)
	var failed error
	if accepted(conditions) {
		failed = c.make(ctx, key, g, class)
	}
	return errors.Join(failed, c.keepStatus(ctx, key, g, withFailure(conditions, failed)))
}

// forget drops what is known of a Gateway.
func (c *Controller) forget(key model.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.applied, key)
	delete(c.failed, key)
}

// ParametersError is why settings that users wrote cannot be used.
type ParametersError struct{ Err error }

func (e *ParametersError) Error() string { return e.Err.Error() }

// Unwrap makes errors.Is and errors.As see the cause.
func (e *ParametersError) Unwrap() error { return e.Err }

// make applies what a Gateway consists of, unless it stands already.
func (c *Controller) make(ctx context.Context, key model.Key, g *gateway.Gateway, class *gateway.GatewayClass) (err error) {
	if c.cfg.Settings.Image == "" {
		return &ParametersError{errors.New("this control plane was not told the image of waypoints (--waypoint-settings)")}
	}
	overlays, err := c.parameters(ctx, g, class)
	if err != nil {
		return err
	}
	objects, err := Build(g, c.deps.Version(model.KindGateway), c.cfg.Mesh, c.cfg.Settings, overlays...)
	if err != nil {
		return &ParametersError{err}
	}
	text, err := json.Marshal(objects)
	if err != nil {
		return err
	}
	c.mu.Lock()
	stands := c.applied[key] == string(text)
	c.applied[key] = string(text) // before it is: who changes it meanwhile takes it out again
	c.mu.Unlock()
	if stands {
		return nil
	}
	defer func() {
		result := "applied"
		if err != nil {
			result = "failed"
			c.mu.Lock()
			delete(c.applied, key)
			c.mu.Unlock()
		}
		c.made.WithLabelValues(result).Inc()
	}()
	return c.apply(ctx, g, objects)
}

// Status is the controller, for people.
type Status struct {
	Image    string            `json:"image"`
	Managed  []string          `json:"waypoints"`          // Gateways that stand as they were asked for
	Problems map[string]string `json:"problems,omitempty"` // Gateways that could not be made, and why
}

// Status is how it stands. Only the leader knows.
func (c *Controller) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{Image: c.cfg.Settings.Image, Managed: []string{}, Problems: map[string]string{}}
	for key := range c.applied {
		s.Managed = append(s.Managed, key.Namespace+"/"+key.Name)
	}
	for key, why := range c.failed {
		s.Problems[key.Namespace+"/"+key.Name] = why
	}
	return s
}

// errNotOurs is why an object is left alone.
func errNotOurs(t kube.Target) error {
	return fmt.Errorf("%s %s/%s is there and does not belong to this Gateway: remove it, or give the Gateway another name by the annotation gateway.istio.io/name-override", t.Kind, t.Namespace, t.Name)
}
