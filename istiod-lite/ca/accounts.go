package ca

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/identity"
)

// Audience is what tokens for us must be made for.
const Audience = "istio-ca"

// Holder is whose a token of a cluster is.
type Holder struct {
	Namespace, ServiceAccount string
	// PodName and PodUID are of the pod that the token was made for; empty when it
	// is for none.
	PodName, PodUID string
}

// Cluster answers what only a cluster knows.
type Cluster interface {
	// Review says whose a token is. The error holds [ErrUndecided] when nobody can
	// be asked; any other means that the token does not hold.
	Review(ctx context.Context, token string) (Holder, error)
	// PodNamed is one pod that has not ended; ok is false when there is none. With
	// fresh the API server is asked, for memory may be late.
	PodNamed(ctx context.Context, namespace, name string, fresh bool) (p Pod, ok bool, err error)
}

// AccountsConfig tunes [Accounts].
type AccountsConfig struct {
	// TrustDomain is that of the callers' identities.
	TrustDomain string
	// NodeAccounts are the service accounts, as namespace/name, whose pods speak
	// for the node that they run on.
	NodeAccounts []string
	// Fresh is how long an answer about a token counts. Zero means 30 s.
	Fresh time.Duration
	// Stale is how long it counts while nobody can be asked, but never longer than
	// the token. Zero means 10 min.
	Stale time.Duration
	// Tokens is how many answers are kept. Zero means 8192.
	Tokens int
}

// withDefaults returns the configuration that is in force.
func (c AccountsConfig) withDefaults() AccountsConfig {
	c.Fresh = cmp.Or(c.Fresh, 30*time.Second)
	c.Stale = cmp.Or(c.Stale, 10*time.Minute)
	c.Tokens = cmp.Or(c.Tokens, 8192)
	return c
}

// Accounts authenticates callers by the tokens of their service accounts, which
// must be bound to a pod that is there. Those of node accounts speak for the node
// of their pod. It may be used by many goroutines.
type Accounts struct {
	cfg     AccountsConfig
	cluster Cluster
	answers *answers
}

var _ Authenticator = (*Accounts)(nil)

// NewAccounts starts nothing.
func NewAccounts(cfg AccountsConfig, cluster Cluster) *Accounts {
	cfg = cfg.withDefaults()
	return &Accounts{cfg: cfg, cluster: cluster, answers: newAnswers(cfg, cluster.Review)}
}

// Authenticate implements [Authenticator] by the bearer token of the call.
func (a *Accounts) Authenticate(ctx context.Context) (Caller, error) {
	token, err := Bearer(ctx)
	if err != nil {
		return Caller{}, err
	}
	ends, err := readToken(token, time.Now())
	if err != nil {
		return Caller{}, err
	}
	answer, err := a.answers.get(ctx, token, ends)
	if err != nil {
		return Caller{}, err
	}
	return a.caller(ctx, answer)
}

// caller is who holds a token, once its pod is found.
func (a *Accounts) caller(ctx context.Context, answer *answer) (Caller, error) {
	b := answer.holder
	id, err := identity.NewID(a.cfg.TrustDomain, b.Namespace, b.ServiceAccount)
	if err != nil {
		return Caller{}, err
	}
	if b.PodName == "" || b.PodUID == "" {
		return Caller{}, fmt.Errorf("the token of %s/%s is not bound to a pod", b.Namespace, b.ServiceAccount)
	}
	pod, err := a.podOf(ctx, answer)
	if err != nil {
		return Caller{}, err
	}
	c := Caller{Identity: id, Pod: b.PodName, Name: fmt.Sprintf("%s/%s (%s)", b.Namespace, b.PodName, b.ServiceAccount)}
	if slices.Contains(a.cfg.NodeAccounts, b.Namespace+"/"+b.ServiceAccount) {
		if pod.Node == "" {
			return Caller{}, fmt.Errorf("pod %s/%s runs on no node", b.Namespace, b.PodName)
		}
		c.Node = pod.Node
	}
	return c, nil
}

// podOf finds the pod of a token: in memory, else by a live read, for it may be
// younger than what is in memory.
func (a *Accounts) podOf(ctx context.Context, answer *answer) (Pod, error) {
	b := answer.holder
	var why error
	for _, fresh := range []bool{false, true} {
		if fresh && !answer.mayLook(time.Now()) {
			break
		}
		pod, ok, err := a.cluster.PodNamed(ctx, b.Namespace, b.PodName, fresh)
		switch {
		case err != nil:
			return Pod{}, fmt.Errorf("%w: pod %s/%s: %w", ErrUndecided, b.Namespace, b.PodName, err)
		case !ok:
			why = fmt.Errorf("there is no pod %s/%s that has not ended", b.Namespace, b.PodName)
		case pod.UID != b.PodUID:
			why = fmt.Errorf("the token is of an earlier pod %s/%s", b.Namespace, b.PodName)
		case pod.ServiceAccount != b.ServiceAccount:
			why = fmt.Errorf("pod %s/%s is not of service account %s", b.Namespace, b.PodName, b.ServiceAccount)
		default:
			return pod, nil
		}
	}
	return Pod{}, why
}

// maxTokenBytes is the longest token. Our choice: four times what API servers
// make.
const maxTokenBytes = 8 << 10

// claims are what is read of a token before anybody is asked about it.
type claims struct {
	Subject  string   `json:"sub"`
	Audience audience `json:"aud"`
	Expiry   float64  `json:"exp"` // seconds since 1970
}

// audience is one name or several.
type audience []string

// UnmarshalJSON reads a string or a list of strings.
func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(a))
}

// readToken says when a token ends, and refuses what the API server would refuse
// anyway: nothing here is believed, but nobody has to be asked about it either.
func readToken(token string, now time.Time) (time.Time, error) {
	if len(token) > maxTokenBytes {
		return time.Time{}, fmt.Errorf("token of %d bytes: want at most %d", len(token), maxTokenBytes)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, errors.New("token is not the JWT of a service account")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, fmt.Errorf("token: %w", err)
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return time.Time{}, fmt.Errorf("token: %w", err)
	}
	if c.Expiry < 0 || c.Expiry > 1<<40 {
		return time.Time{}, errors.New("token: exp is out of range")
	}
	ends := time.Unix(int64(c.Expiry), 0)
	switch {
	case !strings.HasPrefix(c.Subject, "system:serviceaccount:"):
		return time.Time{}, errors.New("token is not of a service account")
	case !slices.Contains(c.Audience, Audience):
		return time.Time{}, fmt.Errorf("token is for %q, want %s", c.Audience, Audience)
	case !now.Before(ends):
		return time.Time{}, fmt.Errorf("token has expired at %s", ends.UTC().Format(time.RFC3339))
	}
	return ends, nil
}
