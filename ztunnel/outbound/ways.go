package outbound

import (
	"context"
	"net"

	"github.com/ambit-mesh/ambit/internal/hbone"
	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/streamio"
	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// way is a connection to the next hop, ready to carry bytes.
type way interface {
	// pipe carries bytes between client and the next hop, counts them in rec,
	// and closes the way.
	pipe(ctx context.Context, client *net.TCPConn, rec *telemetry.Record) error
	// learned is how the bytes travel, and who has proven to be at the other end;
	// zero when nobody has.
	learned() (telemetry.Hop, identity.ID)
}

// tunnelWay is a stream in a tunnel.
type tunnelWay struct {
	stream *hbone.Stream
	peer   identity.ID // who has proven to be at the other end
}

func (w *tunnelWay) pipe(ctx context.Context, client *net.TCPConn, rec *telemetry.Record) error {
	c := rec.Counters()
	return w.stream.Pipe(ctx, client, &c.Sent, &c.Received)
}

func (w *tunnelWay) learned() (telemetry.Hop, identity.ID) { return telemetry.HopTunnel, w.peer }

// directWay is plain TCP from inside the pod's namespace.
type directWay struct{ server *net.TCPConn }

func (w *directWay) pipe(ctx context.Context, client *net.TCPConn, rec *telemetry.Record) error {
	defer w.server.Close()
	return streamio.Pipe(ctx, client, w.server, rec.Counters())
}

func (w *directWay) learned() (telemetry.Hop, identity.ID) {
	return telemetry.HopDirect, identity.ID{}
}

// localWay is a visit to a pod of this node: two sockets of one process.
type localWay struct {
	visit Visit
	peer  identity.ID
	leave func() // gives back the witness
}

func (w *localWay) pipe(ctx context.Context, client *net.TCPConn, rec *telemetry.Record) error {
	w.visit.CountWith(rec.Counters())
	err := streamio.Pipe(ctx, client, w.visit.App(), rec.Counters())
	w.leave()
	w.visit.Close(err)
	return err
}

func (w *localWay) learned() (telemetry.Hop, identity.ID) { return telemetry.HopLocal, w.peer }
