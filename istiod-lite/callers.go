package istiodlite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/ambit-mesh/ambit/istiod-lite/ca"
	"github.com/ambit-mesh/ambit/istiod-lite/discovery"
)

// callers lets discovery use the authenticator of the certificate service, so
// that one proof opens both.
type callers struct{ ca.Authenticator }

// Authenticate implements [discovery.Authenticator].
func (c callers) Authenticate(ctx context.Context) (discovery.Caller, error) {
	caller, err := c.Authenticator.Authenticate(ctx)
	if errors.Is(err, ca.ErrUndecided) {
		err = fmt.Errorf("%w: %w", discovery.ErrUndecided, err)
	}
	if err != nil {
		return discovery.Caller{}, err
	}
	return discovery.Caller{Node: caller.Node, Namespace: caller.Identity.Namespace, Pod: caller.Pod, Name: caller.Name}, nil
}

// refusalsLogged is how many refused callers are logged per second, so that who
// has proven nothing cannot fill the log either.
const refusalsLogged = 10

// doorkeeper refuses a call by its headers, before any of its messages is read:
// who has proven nothing cannot make us hold anything.
func doorkeeper(auth ca.Authenticator, in *lobby, log *zap.Logger) tap.ServerInHandle {
	log = log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, refusalsLogged, 0)
	}))
	return func(ctx context.Context, info *tap.Info) (context.Context, error) {
		from := "unknown"
		if p, ok := peer.FromContext(ctx); ok {
			from = p.Addr.String()
		}
		if _, err := auth.Authenticate(metadata.NewIncomingContext(ctx, info.Header)); err != nil {
			log.Warn("caller refused", zap.String("peer", from), zap.String("method", info.FullMethodName), zap.Error(err))
			if errors.Is(err, ca.ErrUndecided) {
				return nil, grpcstatus.Error(codes.Unavailable, "nobody can tell now who calls: try again")
			}
			return nil, grpcstatus.Error(codes.Unauthenticated, "request authenticate failure")
		}
		in.admit(from)
		return ctx, nil
	}
}
