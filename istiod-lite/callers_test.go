package istiodlite

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/ambit-mesh/ambit/istiod-lite/ca"
)

// nobody authenticates nobody, for a reason.
type nobody struct{ why error }

func (n nobody) Authenticate(context.Context) (ca.Caller, error) { return ca.Caller{}, n.why }

// Who cannot be told from others now may be one of ours: it is to come again, not to
// look for another token.
func TestWhoCannotBeToldNowIsToComeAgain(t *testing.T) {
	door := doorkeeper(nobody{fmt.Errorf("%w: the API server is away", ca.ErrUndecided)}, newLobby(1, time.Minute, prometheus.NewRegistry()), zap.NewNop())
	if _, err := door(t.Context(), &tap.Info{}); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("%v, want Unavailable", err)
	}
}

func TestRefusedCallersDoNotFillTheLog(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	door := doorkeeper(nobody{errors.New("unknown")}, newLobby(1, time.Minute, prometheus.NewRegistry()), zap.New(core))
	for range 1000 {
		if _, err := door(t.Context(), &tap.Info{}); grpcstatus.Code(err) != codes.Unauthenticated {
			t.Fatalf("%v, want Unauthenticated", err)
		}
	}
	if n := logs.Len(); n < 1 || n > 10*refusalsLogged {
		t.Errorf("%d lines, want some %d a second", n, refusalsLogged)
	}
}
