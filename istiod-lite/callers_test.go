package istiodlite

import (
	"context"
	"errors"
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

// nobody authenticates nobody.
type nobody struct{}

func (nobody) Authenticate(context.Context) (ca.Caller, error) {
	return ca.Caller{}, errors.New("unknown")
}

func TestRefusedCallersDoNotFillTheLog(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	door := doorkeeper(nobody{}, newLobby(1, time.Minute, prometheus.NewRegistry()), zap.New(core))
	for range 1000 {
		if _, err := door(t.Context(), &tap.Info{}); grpcstatus.Code(err) != codes.Unauthenticated {
			t.Fatalf("%v, want Unauthenticated", err)
		}
	}
	if n := logs.Len(); n < 1 || n > 10*refusalsLogged {
		t.Errorf("%d lines, want some %d a second", n, refusalsLogged)
	}
}
