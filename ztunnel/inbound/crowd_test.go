package inbound

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/telemetry"
	"github.com/ambit-mesh/ambit/internal/workload"
	"github.com/ambit-mesh/ambit/ztunnel/capture"
	"github.com/ambit-mesh/ambit/ztunnel/route"
)

// However many tunnels lead to it, a pod holds no more than its share of the
// descriptors of the node's proxy.
func TestVisitsOfOnePodAreBounded(t *testing.T) {
	records, err := telemetry.NewRecords(telemetry.Config{}, telemetry.Deps{Log: zap.NewNop(), Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	store := workload.NewStore(workload.Config{})
	in := New(Config{}, Pod{}, Deps{Records: records, State: store, Gate: policy.NewGate(store, policy.GateConfig{})})
	if in.live.most != capture.Share() {
		t.Errorf("a pod may have %d visits, want its share %d", in.live.most, capture.Share())
	}
	in.live.most = 1
	begin := func() (context.Context, *Visit) {
		return in.begin(t.Context(), store.Snapshot(), &workload.Workload{}, Request{},
			route.Target{Dial: netip.MustParseAddrPort("10.0.0.1:80")})
	}
	ctx, first := begin()
	if ctx.Err() != nil {
		t.Fatalf("the first visit is refused: %v", context.Cause(ctx))
	}
	ctx, second := begin()
	if _, ok := errors.AsType[*capture.CrowdError](context.Cause(ctx)); !ok {
		t.Errorf("the second visit has cause %v, want a CrowdError", context.Cause(ctx))
	}
	if got := StatusOf(explainApp(netip.AddrPort{}, context.Cause(ctx))); got != statusUnavailable {
		t.Errorf("answered %d, want %d: another endpoint may do", got, statusUnavailable)
	}
	first.Close(nil)
	second.Close(nil)
	ctx, third := begin()
	if ctx.Err() != nil {
		t.Errorf("after they have ended a visit is refused: %v", context.Cause(ctx))
	}
	third.Close(nil)
}
