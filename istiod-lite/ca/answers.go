package ca

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"
)

const (
	// maxReviews is how many tokens are asked about at a time, so that strangers
	// cannot flood the API server through us.
	maxReviews = 16
	// reviewTimeout bounds one question: another caller may wait for its answer, so
	// that it does not end with the call that asks.
	reviewTimeout = 5 * time.Second
	// askAgain is how long nobody is asked after nobody could be.
	askAgain = 2 * time.Second
	// refusalAge is how long the answer counts that a token does not hold.
	refusalAge = 5 * time.Second
	// lookEvery is how often a live read of one token's pod may be made.
	lookEvery = time.Second
)

// answers remembers what was said about tokens, briefly and not more than so many
// of them. A token is asked about once at a time. Tokens are kept by their digest.
type answers struct {
	cfg    AccountsConfig
	review func(context.Context, string) (Holder, error)
	slots  chan struct{}
	from   *sources

	// mu guards the fields below.
	mu     sync.Mutex
	known  map[[sha256.Size]byte]*list.Element
	oldest list.List // of *answer, by when they were used
}

// answer is what was said about one token. The fields but looked are set before
// asked is closed, then only read.
type answer struct {
	digest [sha256.Size]byte
	ends   time.Time // of the token
	asked  chan struct{}
	old    *answer // the one before, while this one is asked for; may be nil

	holder Holder
	err    error
	at     time.Time // when it was given
	again  time.Time // before then nobody is asked, whatever its age

	mu     sync.Mutex
	looked time.Time // when its pod was last read live
}

// newAnswers remembers nothing yet.
func newAnswers(cfg AccountsConfig, review func(context.Context, string) (Holder, error)) *answers {
	return &answers{cfg: cfg, review: review, slots: make(chan struct{}, maxReviews), from: newSources(), known: map[[sha256.Size]byte]*list.Element{}}
}

// get is what is said about a token: what was said a moment ago, else what is said
// now, else, when nobody can be asked, what was said not long ago.
func (a *answers) get(ctx context.Context, token string, ends time.Time) (*answer, error) {
	digest := sha256.Sum256([]byte(token))
	now, mine := a.enter(digest, ends, time.Now())
	if mine {
		now.holder, now.err = a.ask(ctx, token)
		now.at = time.Now()
		if old := now.old; errors.Is(now.err, ErrUndecided) && old.counts(a.cfg.Stale) {
			now.holder, now.err, now.at, now.again = old.holder, nil, old.at, time.Now().Add(askAgain)
		}
		now.old = nil
		if errors.Is(now.err, ErrUndecided) {
			a.forget(now)
		}
		close(now.asked)
		return now, now.err
	}
	select {
	case <-now.asked:
		return now, now.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// enter finds the answer about a token that still counts, or one that is being
// asked for, or notes that the caller asks.
func (a *answers) enter(digest [sha256.Size]byte, ends, at time.Time) (now *answer, mine bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var old *answer
	if e := a.known[digest]; e != nil {
		a.oldest.MoveToBack(e)
		now = e.Value.(*answer)
		select {
		case <-now.asked:
			age := a.cfg.Fresh
			if now.err != nil {
				age = min(age, refusalAge)
			}
			if at.Sub(now.at) < age || at.Before(now.again) {
				return now, false
			}
			old = now
			a.oldest.Remove(e)
		default:
			return now, false
		}
	}
	now = &answer{digest: digest, ends: ends, old: old, asked: make(chan struct{})}
	a.known[digest] = a.oldest.PushBack(now)
	for a.oldest.Len() > a.cfg.Tokens {
		first := a.oldest.Remove(a.oldest.Front()).(*answer)
		delete(a.known, first.digest)
	}
	return now, true
}

// ask asks about a token when it is its turn.
func (a *answers) ask(ctx context.Context, token string) (Holder, error) {
	if err := a.from.admit(ctx, time.Now()); err != nil {
		return Holder{}, errors.Join(ErrUndecided, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return Holder{}, errors.Join(ErrUndecided, context.Cause(ctx))
	}
	return a.review(ctx, token)
}

// forget takes back an answer that is none.
func (a *answers) forget(none *answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.known[none.digest]; e != nil && e.Value.(*answer) == none {
		a.oldest.Remove(e)
		delete(a.known, none.digest)
	}
}

// counts reports whether the answer is younger than age, and good, and the token
// has not ended.
func (o *answer) counts(age time.Duration) bool {
	return o != nil && o.err == nil && time.Since(o.at) < age && time.Now().Before(o.ends)
}

// mayLook reports whether the pod of a token may be read live again, and notes
// that it is.
func (o *answer) mayLook(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Sub(o.looked) < lookEvery {
		return false
	}
	o.looked = now
	return true
}
