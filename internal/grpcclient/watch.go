package grpcclient

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

const (
	// lookAgain is how often a watched file of roots is read. Our choice: a root
	// that was removed counts within a second.
	lookAgain = time.Second

	// tellAgain is how long after a change the second call comes. Our choice: by
	// then a control plane that looks at its own copy every second, or gets it by
	// a slower way, has seen it too.
	tellAgain = 5 * time.Second
)

// WatchRoots calls changed when the file of roots that rootCA names has another
// content, and once more a few seconds later, until ctx ends: whoever asks the
// control plane for something that depends on the roots may be too early the
// first time. A file that is away or holds no certificate is no change. When
// rootCA names no file it only waits.
func WatchRoots(ctx context.Context, rootCA string, changed func()) error {
	if rootCA == systemRoots || strings.Contains(rootCA, pemBegin) {
		<-ctx.Done()
		return nil
	}
	known, seen := rootsDigest(rootCA)
	var again time.Time
	for lifecycle.Sleep(ctx, lookAgain) == nil {
		now, ok := rootsDigest(rootCA)
		switch {
		case !ok:
		case !seen:
			known, seen = now, true
		case now != known:
			known, again = now, time.Now().Add(tellAgain)
			changed()
			continue
		}
		if !again.IsZero() && !time.Now().Before(again) {
			again = time.Time{}
			changed()
		}
	}
	return nil
}

// rootsDigest tells one content of a file of roots from another. ok is false
// when there are no roots in it.
func rootsDigest(path string) (digest [sha256.Size]byte, ok bool) {
	text, err := readFile(path, maxRootFile)
	if err != nil {
		return digest, false
	}
	if _, err := parseRoots(path, text); err != nil {
		return digest, false
	}
	return sha256.Sum256(text), true
}
