package cases

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// harnessCases prove that the harness sees what it must see. They need no mesh.
func harnessCases() []Case {
	return []Case{
		{Name: "planted-leak", Plain: true, About: "plaintext on the wire is found by the capture", Run: plantedLeak},
		{Name: "planted-failure", Plain: true, About: "a server that goes away without a word costs requests, and the load counts them", Run: plantedFailure},
		{Name: "plain-load", Plain: true, About: "without a mesh a load fails nothing, and a stream arrives whole", Run: plainLoad},
	}
}

// plantedLeak sends marked requests between pods outside the mesh.
func plantedLeak(ctx context.Context, e *Env) (string, error) {
	leak, err := e.Watch(ctx, e.Marker)
	if err != nil {
		return "", err
	}
	load, err := e.between(ctx)
	if err != nil {
		return "", err
	}
	now, err := load.Clean()
	if err != nil {
		return "", err
	}
	got, err := leak.Stop()
	if err != nil {
		return "", err
	}
	// Each marker is seen at least once on the way there and once on the way back.
	if got.Hits < 2*now.OK {
		return "", fmt.Errorf("%d requests in the clear, and their markers were seen only %d times in %d frames", now.OK, got.Hits, got.Frames)
	}
	return fmt.Sprintf("%d requests in the clear, marker seen %d times in %d frames", now.OK, got.Hits, got.Frames), nil
}

// between deploys a client and a server and starts a load between them.
func (e *Env) between(ctx context.Context) (*Load, error) {
	nodes := e.Cluster.Nodes()
	err := e.Deploy(ctx, App{Name: "client", Node: nodes[0].Name}, App{Name: "server", Replicas: 2})
	if err != nil {
		return nil, err
	}
	client, err := e.Pod(ctx, "client")
	if err != nil {
		return nil, err
	}
	return e.Load(ctx, client, "server:80")
}

func plantedFailure(ctx context.Context, e *Env) (string, error) {
	load, err := e.between(ctx)
	if err != nil {
		return "", err
	}
	servers, err := e.Pods(ctx, "server")
	if err != nil {
		return "", err
	}
	pid, err := servers[0].PID()
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		return "", err
	}
	err = e.Until(ctx, 20*time.Second, "failed requests", func(context.Context) (bool, error) {
		now, err := load.Now()
		return now.Failed > 0, err
	})
	if err != nil {
		return "", err
	}
	now, err := load.Clean()
	if err == nil {
		return "", errors.New("the load has seen failures and calls itself clean")
	}
	return fmt.Sprintf("%d of %d requests failed, as they must: %s", now.Failed, now.Sent, firstFailure(now)), nil
}

func plainLoad(ctx context.Context, e *Env) (string, error) {
	load, err := e.between(ctx)
	if err != nil {
		return "", err
	}
	client, err := e.Pod(ctx, "client")
	if err != nil {
		return "", err
	}
	stream, err := e.Stream(ctx, client, fmt.Sprintf("server:%d", labapp.SumPort))
	if err != nil {
		return "", err
	}
	if err := load.Flowing(ctx, 5*rate); err != nil {
		return "", err
	}
	now, err := load.Clean()
	if err != nil {
		return "", err
	}
	if len(now.Servers) != 2 {
		return "", fmt.Errorf("answered by %v, want two servers", now.Servers)
	}
	bytes, err := stream.Clean(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s; a stream of %d bytes", summary(now), bytes), nil
}
