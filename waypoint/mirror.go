package waypoint

import (
	"cmp"
	"context"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/waypoint/config"
	"github.com/ambit-mesh/ambit/waypoint/message"
	"github.com/ambit-mesh/ambit/waypoint/upstream"
)

// Limits on copies of requests. Our choice.
const (
	// mirrorTime is how long a copy may take.
	mirrorTime = 15 * time.Second
	// maxMirrors is how many are under way at once; those beyond are not made.
	maxMirrors = 200
)

// mirror sends copies of a request whose answer is on its way, and forgets what
// they are answered. A body that was too large to be kept is not copied, and said
// so in the record.
func (f *flight) mirror(ctx context.Context) {
	for _, b := range f.pass.Mirrors {
		backend, err := config.CompileBackend(b)
		if err != nil || backend.Broken != "" {
			f.rec.Details = cmp.Or(f.rec.Details, "not mirrored: "+backend.Broken)
			continue
		}
		body, whole := f.pump.copy()
		if !whole {
			f.rec.Details = cmp.Or(f.rec.Details, "not mirrored: the body is too large")
			continue
		}
		if f.w.mirroring.Add(1) > maxMirrors {
			f.w.mirroring.Add(-1)
			f.rec.Details = cmp.Or(f.rec.Details, "not mirrored: too many are under way")
			continue
		}
		req := *f.req
		req.Fields = append(message.Fields(nil), f.req.Fields...)
		req.Body, req.Length = nil, 0
		want := upstream.Want{Key: upstream.Key{Service: backend.Service, Port: cmp.Or(backend.Port, f.c.target.port)}, Near: f.c.target.near, Client: f.c.addr}
		f.w.mirrors.Go(context.WithoutCancel(ctx), "mirror", func(ctx context.Context) {
			defer f.w.mirroring.Add(-1)
			if err := f.w.sendCopy(ctx, &req, body, want); err != nil {
				f.w.log.Debug("a copy of a request was not answered", zap.Stringer("to", want.Key), zap.Error(err))
			}
		})
	}
}

// sendCopy sends a request and reads its answer to the end.
func (w *Waypoint) sendCopy(ctx context.Context, req *message.Request, body []byte, want upstream.Want) error {
	ctx, cancel := context.WithTimeout(ctx, mirrorTime)
	defer cancel()
	stop := context.AfterFunc(w.copies, cancel)
	defer stop()
	e, err := w.upstreams.Pick(want)
	if err != nil {
		return err
	}
	version := req.Version
	if version == message.HTTP10 {
		version = message.HTTP11
	}
	up, err := e.Open(ctx, version, upstream.AnyAge)
	if err != nil {
		w.judge(e, 0, err)
		return err
	}
	unblock := context.AfterFunc(ctx, up.Interrupt)
	status, err := converse(ctx, up, req, body)
	up.Close(unblock() && err == nil)
	w.judge(e, status, err)
	return err
}

// judge says how an endpoint has dealt with a copy, unless the end of this waypoint has
// ended it.
func (w *Waypoint) judge(e *upstream.Endpoint, status int, err error) {
	switch {
	case err != nil && w.copies.Err() != nil:
		e.Drop()
	case status == 0:
		e.Failed(err)
	default:
		e.Done(status)
	}
}

// converse sends a request and reads its answer to the end.
func converse(ctx context.Context, up upstream.Exchange, req *message.Request, body []byte) (status int, err error) {
	if len(body) > 0 {
		req.Body, req.Length = &message.Replayed{Data: body}, int64(len(body))
	}
	if err := up.Send(req, len(body) == 0); err != nil {
		return 0, err
	}
	if len(body) > 0 {
		up.Body(body)
		up.End(nil)
	}
	up.Flush()
	resp, err := up.Response(ctx)
	for err == nil && resp.Informational() {
		resp, err = up.Response(ctx)
	}
	if err != nil {
		return 0, err
	}
	status = resp.Status
	buf := copies.Get().(*[32 << 10]byte)
	defer copies.Put(buf)
	for resp.Body != nil && err == nil {
		_, err = resp.Body.Read(buf[:])
	}
	if err == io.EOF {
		err = nil
	}
	return status, err
}
