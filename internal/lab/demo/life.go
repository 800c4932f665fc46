package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// rotation runs a transfer until both ends have got new certificates.
func rotation(ctx context.Context, l *lab.Lab) (string, error) {
	web, api := l.Pod("shop", "web"), l.Pod("books", "api-2")
	ends := []struct {
		pod      *lab.Pod
		identity string
		before   string
	}{{pod: web, identity: identityOf("shop", "web")}, {pod: api, identity: identityOf("books", "api")}}
	transfer, err := web.Begin(ctx, labapp.Request{Do: labapp.DoUpload, Address: api.At(labapp.SumPort).String(), Rate: 50 << 20})
	if err != nil {
		return "", err
	}
	defer transfer.Close()
	for i := range ends {
		if ends[i].before, err = ends[i].pod.Node.Serial(ctx, ends[i].identity); err != nil {
			return "", err
		}
	}
	var renewed []string
	for _, e := range ends {
		// Half the life of a certificate, and as much again as a busy machine needs.
		after, err := e.pod.Node.WaitRotation(ctx, e.identity, e.before, SecretTTL/2+2*time.Second)
		if err != nil {
			return "", err
		}
		renewed = append(renewed, fmt.Sprintf("%v %.6s>%.6s", e.pod, e.before, after))
	}
	if _, err := web.Hello(ctx, api.At(labapp.HTTPPort)); err != nil {
		return "", fmt.Errorf("a new connection after the renewal: %w", err)
	}
	if err := transfer.Stop(); err != nil {
		return "", err
	}
	r, err := transfer.Next(ctx)
	if err != nil {
		return "", err
	}
	if r.Error != "" {
		return "", fmt.Errorf("the transfer broke: %s", r.Error)
	}
	if *r.Got != *r.Sent {
		return "", fmt.Errorf("the server got %+v, sent was %+v", *r.Got, *r.Sent)
	}
	return fmt.Sprintf("%d MiB, checksum equal; renewed meanwhile: %s", r.Got.Bytes>>20, strings.Join(renewed, ", ")), nil
}

// istiodAway stops the control plane under a live connection, opens new ones,
// changes a policy that nobody can hear of, and starts it again.
func istiodAway(ctx context.Context, l *lab.Lab) (evidence string, err error) {
	web, ledger := l.Pod("shop", "web"), l.Pod("bank", "ledger")
	live, err := hold(ctx, web, ledger)
	if err != nil {
		return "", err
	}
	defer live.Close()
	if err := l.StopIstiod(); err != nil {
		return "", err
	}
	newConns, err := carryOn(ctx, l, live)
	undo, applyErr := applyPolicy(ctx, l, "policy-no-web", denyWeb)
	err = errors.Join(err, applyErr, l.StartIstiod(context.WithoutCancel(ctx)))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, undo()) }()
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := untilDone(ctx, live); err != nil {
		return "", fmt.Errorf("a policy that was written meanwhile is not in force 5 s after istiod-lite is back: %w", err)
	}
	return fmt.Sprintf("%d new connections and the live one went on; the policy written meanwhile cut it %v after istiod-lite was back",
		newConns, time.Since(start).Round(time.Millisecond)), nil
}

// carryOn makes new connections of several pods and wants the live one to tick
// all the while.
func carryOn(ctx context.Context, l *lab.Lab, live *lab.Session) (int, error) {
	made := 0
	for _, from := range []*lab.Pod{l.Pod("shop", "web"), l.Pod("shop", "cart"), l.Pod("bank", "teller")} {
		for _, to := range []*lab.Pod{l.Pod("books", "api-1"), l.Pod("books", "api-2"), l.Pod("bank", "ledger")} {
			if _, err := from.Hello(ctx, to.At(labapp.HTTPPort)); err != nil {
				return made, fmt.Errorf("without istiod-lite: %w", err)
			}
			made++
			if r, err := live.Next(ctx); err != nil || r.Done {
				return made, errors.Join(err, fmt.Errorf("the live connection ended without istiod-lite: %s", r.Error))
			}
		}
	}
	return made, nil
}

// worksWithin is the promise of ztunnelKilled.
const worksWithin = 2 * time.Second

// ztunnelKilled kills the ztunnel of node 2 and starts it again.
func ztunnelKilled(ctx context.Context, l *lab.Lab) (string, error) {
	web, cart, api := l.Pod("shop", "web"), l.Pod("shop", "cart"), l.Pod("books", "api-2")
	node := api.Node
	old := node.Ztunnel.Record.PID
	if err := node.Ztunnel.Kill(); err != nil {
		return "", err
	}
	start := time.Now()
	if err := l.StartZtunnel(ctx, node); err != nil {
		return "", err
	}
	ctx, cancel := context.WithDeadline(ctx, start.Add(worksWithin))
	defer cancel()
	var took []string
	for _, way := range [][2]*lab.Pod{{web, api}, {cart, l.Pod("books", "api-1")}} {
		if err := untilAnswer(ctx, way[0], way[1]); err != nil {
			return "", fmt.Errorf("%v after the start of the new ztunnel: %w", worksWithin, err)
		}
		took = append(took, fmt.Sprintf("%v -> %v after %v", way[0], way[1], time.Since(start).Round(time.Millisecond)))
	}
	return fmt.Sprintf("pid %d killed, pid %d: %s", old, node.Ztunnel.Record.PID, strings.Join(took, ", ")), nil
}

// untilAnswer asks until there is an answer.
func untilAnswer(ctx context.Context, from, to *lab.Pod) error {
	for {
		r, err := from.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: to.At(labapp.HTTPPort).String(), Timeout: 300 * time.Millisecond})
		switch {
		case err == nil && r.Error == "":
			return nil
		case err == nil:
			err = errors.New(r.Error)
		}
		if lifecycle.Sleep(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("%v to %v: %w", from, to, err)
		}
	}
}

// leaveMesh takes a running pod out of the mesh and asks the kernel what is
// left, and then whether it still works, both ways and in plaintext.
func leaveMesh(ctx context.Context, l *lab.Lab) (evidence string, err error) {
	cart, api := l.Pod("shop", "cart"), l.Pod("books", "api-1")
	before, err := cart.Residue()
	if err != nil {
		return "", err
	}
	if len(before) == 0 {
		return "", fmt.Errorf("%v had no rule before: it was not in the mesh", cart)
	}
	if err := l.LeaveMesh(ctx, cart); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.JoinMesh(context.WithoutCancel(ctx), cart)) }()
	if left, err := cart.Residue(); err != nil || len(left) > 0 {
		return "", errors.Join(err, fmt.Errorf("left in %v: %v", cart, left))
	}
	hello, err := cart.Hello(ctx, api.At(labapp.HTTPPort))
	if err != nil {
		return "", fmt.Errorf("outside of the mesh: %w", err)
	}
	if err := sawSource(hello, cart); err != nil {
		return "", err
	}
	if err := untilAnswer(ctx, l.Pod("shop", "web"), cart); err != nil {
		return "", fmt.Errorf("to the pod outside of the mesh: %w", err)
	}
	if err := until(ctx, time.Second, "the proxy's sockets in the pod are closed", func(context.Context) error {
		ports, err := cart.ProxyListeners()
		if err == nil && len(ports) > 0 {
			err = fmt.Errorf("it still listens on %v", ports)
		}
		return err
	}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%v: %d tables, rules and routes before, 0 after, no socket of the proxy; it calls and is called without the mesh", cart, len(before)), nil
}
