package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// agentPods asks the agent of a node what it knows of its pods.
func (n *Node) agentPods(ctx context.Context) ([]event.Pod, error) {
	pods, err := askPods(ctx, n.pluginSocket())
	if err != nil {
		return nil, fmt.Errorf("agent of %s: %w", n.Name, err)
	}
	return pods, nil
}

// askPods asks the agent at socket what it knows of its pods.
func askPods(ctx context.Context, socket string) ([]event.Pod, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+event.PathPods, nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	var pods []event.Pod
	return pods, json.NewDecoder(res.Body).Decode(&pods)
}

// waitAgent waits until the agent says that a pod is in a state.
func (l *Lab) waitAgent(ctx context.Context, p *Pod, want event.State) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		err := p.agentSays(ctx, want)
		if err == nil {
			return nil
		}
		if lifecycle.Sleep(ctx, 10*time.Millisecond) != nil {
			rules, rerr := p.Residue()
			return errors.Join(fmt.Errorf("the agent of %s does not say within 5 s that %v is %s: %w; in the pod: %v", p.Node.Name, p, want, err, rules), rerr)
		}
	}
}

// agentSays asks once.
func (p *Pod) agentSays(ctx context.Context, want event.State) error {
	pods, err := p.Node.agentPods(ctx)
	if err != nil {
		return err
	}
	for _, known := range pods {
		if known.UID != p.UID {
			continue
		}
		if known.State != want {
			return fmt.Errorf("it is %s: %s", known.State, known.Reason)
		}
		return nil
	}
	return errors.New("the agent does not know it")
}
