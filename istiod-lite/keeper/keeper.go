package keeper

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

const (
	// LeaseName is the name of the Lease that the leader holds.
	LeaseName = "istiod-lite"
	// manager is who the API server notes as owner of the fields that we apply.
	manager = "istiod-lite"
	// writers is how many objects are written at a time.
	writers = 4
	// tryAgain and tryAgainMost space out tries of what cannot be written.
	tryAgain, tryAgainMost = 100 * time.Millisecond, 30 * time.Second
	// writeTimeout bounds the work on one object.
	writeTimeout = 20 * time.Second
)

// Config says what is kept, and as whom.
type Config struct {
	// Namespace is that of the installation.
	Namespace string
	// Identity tells this replica from the others.
	Identity string
	// Taint is the key of the taint that is removed from nodes whose agent is
	// Ready. Empty: none is.
	Taint string
	// AgentLabel and AgentValue select the pods of the CNI agent in the namespace.
	// Empty means k8s-app=ambit-cni-node.
	AgentLabel, AgentValue string
	// Lease is how long the others wait for a leader that says nothing. Zero means
	// 15 s.
	Lease time.Duration
}

// World is what is known.
type World interface {
	// Look is an object, nil when there is none, and what its author should know.
	Look(key model.Key) (model.Object, []model.Condition)
	// Keys are the names of all objects of a kind.
	Keys(kind model.Kind) []model.Key
	// PodsOn are the pods of a node.
	PodsOn(node string) []*corev1.Pod
	// Known is closed when the first picture stands.
	Known() <-chan struct{}
}

// Authority is the certificate authority as far as its Secret and its roots go.
type Authority interface {
	// Use puts the values of a Secret in force.
	Use(where string, values map[string][]byte) error
	// Roots are the certificates that the mesh trusts, in PEM; empty when there are
	// none yet.
	Roots() string
	// Changed has a note whenever they are others.
	Changed() <-chan struct{}
	// MakeRoot makes a self-signed root: the values of a Secret. It is not in force
	// by that.
	MakeRoot() (map[string][]byte, error)
}

// Deps are the collaborators of a [Keeper]. All fields are required.
type Deps struct {
	Client    *kube.Client
	Version   func(model.Kind) string // that of a kind which is served; empty: none
	World     World
	Authority Authority
	// Beside runs while this replica leads; nil: nothing does.
	Beside  func(ctx context.Context)
	Log     *zap.Logger
	Metrics prometheus.Registerer
}

// Keeper writes. Run may be called once.
type Keeper struct {
	// Set by New, then only read.
	cfg     Config
	deps    Deps
	log     *zap.Logger
	leading prometheus.Gauge
	writes  *prometheus.CounterVec
	secrets *secrets
	roots   *roots
	pool    *pool

	// mu guards the fields below.
	mu     sync.Mutex
	queue  workqueue.TypedRateLimitingInterface[model.Key] // nil while another replica leads
	leader string
}

// New wires a keeper. It starts nothing.
func New(cfg Config, deps Deps) *Keeper {
	cfg.AgentLabel = cmp.Or(cfg.AgentLabel, "k8s-app")
	cfg.AgentValue = cmp.Or(cfg.AgentValue, "ambit-cni-node")
	deps.Log = deps.Log.Named("keeper")
	f := promauto.With(deps.Metrics)
	return &Keeper{
		cfg: cfg, deps: deps, log: deps.Log,
		secrets: newSecrets(cfg.Namespace, deps),
		roots:   newRoots(),
		pool:    newPool(),
		leading: f.NewGauge(prometheus.GaugeOpts{
			Name: "ambit_leader", Help: "1 while this replica writes to the cluster.",
		}),
		writes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_writes_total", Help: "Objects written to the cluster, and those that could not be.",
		}, []string{"kind", "result"}),
	}
}

// Run follows the CA's Secret, and writes while this replica leads, until ctx
// ends.
func (k *Keeper) Run(ctx context.Context) error {
	var parts lifecycle.Group
	defer parts.Wait()
	parts.Go(ctx, "keeper-secrets", k.secrets.run)
	return k.deps.Client.Lead(ctx, kube.LeaderConfig{
		Namespace: k.cfg.Namespace, Name: LeaseName, Identity: k.cfg.Identity, Lease: k.cfg.Lease,
	}, k.noteLeader, k.lead)
}

// noteLeader remembers who leads.
func (k *Keeper) noteLeader(leader string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.leader != leader {
		k.log.Info("leader", zap.String("leader", leader), zap.Bool("it_is_this", leader == k.cfg.Identity))
	}
	k.leader = leader
}

// Status is who leads, and what waits to be written, for people.
type Status struct {
	Leader  string `json:"leader"`
	Leading bool   `json:"leading"` // this replica
	Waiting int    `json:"waiting"` // objects to look at
}

// Status is the state of the moment.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{Leader: k.leader, Leading: k.queue != nil}
	if k.queue != nil {
		s.Waiting = k.queue.Len()
	}
	return s
}

// lead writes until ctx ends, which is when the lead does.
func (k *Keeper) lead(ctx context.Context) {
	var parts lifecycle.Group
	defer parts.Wait()
	k.leading.Set(1)
	defer k.leading.Set(0)
	parts.Go(ctx, "keeper-make-secret", k.secrets.keep)
	if k.deps.Beside != nil {
		parts.Go(ctx, "keeper-beside", k.deps.Beside)
	}
	select {
	case <-ctx.Done():
		return
	case <-k.deps.World.Known():
	}

	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[model.Key](tryAgain, tryAgainMost))
	defer queue.ShutDown()
	k.setQueue(queue)
	defer k.setQueue(nil)
	k.pool.clear()
	for _, kind := range append([]model.Kind{model.KindServiceEntry, model.KindNode}, spokenAbout...) {
		k.enqueue(k.deps.World.Keys(kind)...)
	}
	parts.Go(ctx, "keeper-roots", k.followRoots)
	for range writers {
		parts.Go(ctx, "keeper-write", func(ctx context.Context) { k.work(ctx, queue) })
	}
	<-ctx.Done()
}

// setQueue begins or ends the taking of names.
func (k *Keeper) setQueue(q workqueue.TypedRateLimitingInterface[model.Key]) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.queue = q
}

// enqueue notes objects that are to be looked at.
func (k *Keeper) enqueue(keys ...model.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.queue == nil {
		return // whoever begins to lead looks at everything
	}
	for _, key := range keys {
		k.queue.Add(key)
	}
}

// later notes an object that is to be looked at after a while.
func (k *Keeper) later(key model.Key, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.queue != nil {
		k.queue.AddAfter(key, wait)
	}
}

// Notice takes note of what changed. It does not wait.
func (k *Keeper) Notice(events []model.Event, changes []model.Change) {
	for _, e := range events {
		switch e.Key.Kind {
		case model.KindPod:
			k.noticePod(e)
		case model.KindNamespace, model.KindNode, model.KindServiceEntry:
			k.enqueue(e.Key)
		default:
			if slices.Contains(spokenAbout, e.Key.Kind) {
				k.enqueue(e.Key)
			}
		}
	}
	for _, c := range changes {
		if c.Type == model.TypeCondition {
			k.enqueue(c.Object)
		}
	}
}

// work looks at one object after the other until the queue is shut down.
func (k *Keeper) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[model.Key]) {
	for ctx.Err() == nil {
		key, shutDown := queue.Get()
		if shutDown {
			return
		}
		err := k.reconcile(ctx, key)
		switch {
		case err == nil:
			queue.Forget(key)
		case ctx.Err() == nil:
			k.writes.WithLabelValues(string(key.Kind), "failed").Inc()
			if queue.NumRequeues(key) == 0 {
				k.log.Warn("not written, will be tried again", zap.Stringer("object", key), zap.Error(err))
			}
			queue.AddRateLimited(key)
		}
		queue.Done(key)
	}
}

// reconcile compares what stands of one object with what should.
func (k *Keeper) reconcile(ctx context.Context, key model.Key) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	switch key.Kind {
	case model.KindNamespace:
		return k.keepRoot(ctx, key.Name)
	case model.KindNode:
		return k.keepTaint(ctx, key.Name)
	case model.KindServiceEntry:
		if err := k.keepAddresses(ctx, key); err != nil {
			return err
		}
		return k.keepConditions(ctx, key)
	case model.KindHTTPRoute, model.KindGRPCRoute, model.KindTLSRoute, model.KindTCPRoute, model.KindBackendPolicy:
		return k.keepParents(ctx, key)
	}
	if slices.Contains(spokenAbout, key.Kind) {
		return k.keepConditions(ctx, key)
	}
	return nil
}

// spokenAbout are the kinds whose status says what became of an object, and nothing
// else that is ours.
var spokenAbout = []model.Kind{
	model.KindService, model.KindWorkloadEntry, model.KindAuthorizationPolicy, model.KindPeerAuthentication, model.KindRequestAuthentication,
	model.KindHTTPRoute, model.KindGRPCRoute, model.KindTLSRoute, model.KindTCPRoute, model.KindBackendPolicy,
	model.KindVirtualService, model.KindDestinationRule, model.KindServiceProfile, model.KindRateLimit,
}

// wrote counts one write.
func (k *Keeper) wrote(key model.Key) { k.writes.WithLabelValues(string(key.Kind), "written").Inc() }

// errorOf says what could not be done with which object.
func errorOf(what string, key model.Key, err error) error {
	return fmt.Errorf("%s of %v: %w", what, key, err)
}
