package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// identityOf is the identity that a line expects. It is written out here and
// not taken from a pod: a pod that runs as somebody else must turn it red.
func identityOf(namespace, account string) string {
	return "spiffe://cluster.local/ns/" + namespace + "/sa/" + account
}

// crossNode calls from node 1 to node 2 and compares what the server program saw
// with what its ztunnel has proven.
func crossNode(ctx context.Context, l *lab.Lab) (string, error) {
	web, api := l.Pod("shop", "web"), l.Pod("books", "api-2")
	rec, err := helloThrough(ctx, web, api, api.At(labapp.HTTPPort), identityOf("shop", "web"))
	if err != nil {
		return "", err
	}
	if rec.Hop != "tunnel" {
		return "", fmt.Errorf("the record says hop=%q, want tunnel", rec.Hop)
	}
	return fmt.Sprintf("%v on %s -> %v on %s: program saw %v, ztunnel proved %s",
		web, web.Node.Name, api, api.Node.Name, web.Address, rec.SrcIdentity), nil
}

// forth is crossNode for records that name no hop.
func forth(ctx context.Context, l *lab.Lab) (string, error) {
	return proven(ctx, l.Pod("shop", "web"), l.Pod("books", "api-2"), identityOf("shop", "web"))
}

// back is the way against forth.
func back(ctx context.Context, l *lab.Lab) (string, error) {
	return proven(ctx, l.Pod("shop", "cart"), l.Pod("books", "api-1"), identityOf("shop", "cart"))
}

func proven(ctx context.Context, from, to *lab.Pod, identity string) (string, error) {
	rec, err := helloThrough(ctx, from, to, to.At(labapp.HTTPPort), identity)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%v on %s -> %v on %s: program saw %v, ztunnel proved %s",
		from, from.Node.Name, to, to.Node.Name, from.Address, rec.SrcIdentity), nil
}

// sameNode does the same between two pods of node 1.
func sameNode(ctx context.Context, l *lab.Lab) (string, error) {
	web, api := l.Pod("shop", "web"), l.Pod("books", "api-1")
	rec, err := helloThrough(ctx, web, api, api.At(labapp.HTTPPort), identityOf("shop", "web"))
	if err != nil {
		return "", err
	}
	if rec.Hop != "local" {
		return "", fmt.Errorf("the record says hop=%q, want local", rec.Hop)
	}
	return fmt.Sprintf("%v -> %v, both on %s: program saw %v, identity %s, record says hop=local",
		web, api, api.Node.Name, web.Address, rec.SrcIdentity), nil
}

// helloThrough asks the HTTP program of a pod and returns the inbound record of
// its ztunnel. identity is who the record must name; empty for plaintext.
func helloThrough(ctx context.Context, from, to *lab.Pod, dst netip.AddrPort, identity string) (lab.AccessLine, error) {
	log, err := to.Node.AccessLog()
	if err != nil {
		return lab.AccessLine{}, err
	}
	hello, err := from.Hello(ctx, dst)
	if err != nil {
		return lab.AccessLine{}, err
	}
	if hello.Pod != to.String() {
		return lab.AccessLine{}, fmt.Errorf("%s answered, want %v", hello.Pod, to)
	}
	if err := sawSource(hello, from); err != nil {
		return lab.AccessLine{}, err
	}
	rec, err := log.Wait(ctx, fmt.Sprintf("an inbound connection from %v to %v", from.Address, to.At(labapp.HTTPPort)), func(r lab.AccessLine) bool {
		return r.Direction == "inbound" && r.From(from.Address) && r.To(to.At(labapp.HTTPPort))
	})
	if err != nil {
		return rec, err
	}
	if rec.SrcIdentity != identity {
		return rec, fmt.Errorf("ztunnel of %s saw identity %q, want %q", to.Node.Name, rec.SrcIdentity, identity)
	}
	if rec.Error != "" {
		return rec, fmt.Errorf("the record says error=%q", rec.Error)
	}
	return rec, nil
}

// sawSource checks the address that a server program saw.
func sawSource(hello labapp.Hello, from *lab.Pod) error {
	remote, err := netip.ParseAddrPort(hello.Remote)
	if err != nil {
		return err
	}
	if got := remote.Addr().Unmap(); got != from.Address {
		return fmt.Errorf("%s saw source address %v, want %v", hello.Pod, got, from.Address)
	}
	return nil
}

// outsideToMesh calls a captured server from a pod that is not in the mesh.
func outsideToMesh(ctx context.Context, l *lab.Lab) (string, error) {
	visitor, api := l.Pod("outside", "visitor"), l.Pod("books", "api-2")
	if found, err := visitor.Residue(); err != nil || len(found) > 0 {
		return "", errors.Join(err, fmt.Errorf("%v is not outside of the mesh: %v", visitor, found))
	}
	rec, err := helloThrough(ctx, visitor, api, api.At(labapp.HTTPPort), "")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%v -> %v: program saw %v, record says hop=%s and no identity", visitor, api, visitor.Address, rec.Hop), nil
}

// meshToOutside calls a server that is not in the mesh from a captured pod.
func meshToOutside(ctx context.Context, l *lab.Lab) (string, error) {
	cart, visitor := l.Pod("shop", "cart"), l.Pod("outside", "visitor")
	log, err := cart.Node.AccessLog()
	if err != nil {
		return "", err
	}
	dst := visitor.At(labapp.HTTPPort)
	hello, err := cart.Hello(ctx, dst)
	if err != nil {
		return "", err
	}
	if err := sawSource(hello, cart); err != nil {
		return "", err
	}
	rec, err := log.Wait(ctx, fmt.Sprintf("an outbound connection from %v to %v", cart.Address, dst), func(r lab.AccessLine) bool {
		return r.Direction == "outbound" && r.From(cart.Address) && r.To(dst)
	})
	if err != nil {
		return "", err
	}
	if rec.Hop != "direct" || rec.DstIdentity != "" {
		return "", fmt.Errorf("the record says hop=%q and identity %q, want direct and none", rec.Hop, rec.DstIdentity)
	}
	return fmt.Sprintf("%v -> %v: program saw %v, record says hop=direct", cart, visitor, cart.Address), nil
}

// spreadCalls is how many connections the spread is judged by: that one of
// three endpoints is left out by chance has a probability of 3*(2/3)^40, below
// one in three million.
const spreadCalls = 40

// serviceSpread calls a service often and counts who answered.
func serviceSpread(ctx context.Context, l *lab.Lab) (string, error) {
	web, api := l.Pod("shop", "web"), l.Service("books", "api")
	r, err := web.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: api.AddrPort().String(), Count: spreadCalls})
	if err != nil {
		return "", err
	}
	if r.Error != "" {
		return "", fmt.Errorf("call %d of %d to %v: %s", len(r.Hellos)+1, spreadCalls, api.AddrPort(), r.Error)
	}
	counts := map[string]int{}
	for _, h := range r.Hellos {
		counts[h.Pod]++
		if err := sawSource(h, web); err != nil {
			return "", err
		}
	}
	var parts []string
	for _, pod := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", pod, counts[pod]))
	}
	if len(counts) != 3 {
		return "", fmt.Errorf("%d calls to %v reached %d of 3 endpoints: %s", spreadCalls, api.AddrPort(), len(counts), strings.Join(parts, ", "))
	}
	return fmt.Sprintf("%d calls to %v: %s", spreadCalls, api.AddrPort(), strings.Join(parts, ", ")), nil
}

// wire searches the link between the nodes for a marker that the payload
// carries, first with the client outside of the mesh, where it must be found.
func wire(ctx context.Context, l *lab.Lab) (string, error) {
	web, api := l.Pod("shop", "web"), l.Pod("books", "api-2")
	if err := l.LeaveMesh(ctx, web); err != nil {
		return "", err
	}
	off, err := sendMarked(ctx, l, web, api)
	if joinErr := l.JoinMesh(ctx, web); joinErr != nil {
		return "", errors.Join(err, joinErr)
	}
	if err != nil {
		return "", err
	}
	if off.Hits == 0 {
		return "", fmt.Errorf("with the mesh off the marker was not found in %d frames: the capture is blind", off.Frames)
	}
	on, err := sendMarked(ctx, l, web, api)
	if err != nil {
		return "", err
	}
	if on.Frames == 0 {
		return "", errors.New("with the mesh on no frame was seen: the capture is blind")
	}
	if on.Hits > 0 {
		return "", fmt.Errorf("the marker could be read on the wire %d times, first from %v to %v", on.Hits, on.First.Src, on.First.Dst)
	}
	return fmt.Sprintf("marker in %d frames between the nodes: found %d times with the mesh off, 0 of %d frames with it on",
		off.Frames, off.Hits, on.Frames), nil
}

// sendMarked lets a pod echo a fresh marker many times while the link of its
// node is searched.
func sendMarked(ctx context.Context, l *lab.Lab, from, to *lab.Pod) (lab.Captured, error) {
	marker := rand.Text()
	c, err := l.StartCapture(ctx, from.Node, []byte(marker))
	if err != nil {
		return lab.Captured{}, err
	}
	r, err := from.Do(ctx, labapp.Request{
		Do: labapp.DoEcho, Address: to.At(labapp.EchoPort).String(), Text: strings.Repeat(marker+" ", 20),
	})
	seen, stopErr := c.Stop()
	if err := errors.Join(err, stopErr); err != nil {
		return seen, err
	}
	if r.Error != "" {
		return seen, fmt.Errorf("%v to %v: %s", from, to, r.Error)
	}
	return seen, nil
}

// halfClose sends, ends its side, and wants the answer that the server gives
// only after that end: across nodes and on one node.
func halfClose(ctx context.Context, l *lab.Lab) (string, error) {
	const size = 1 << 20
	web := l.Pod("shop", "web")
	for _, to := range []*lab.Pod{l.Pod("books", "api-2"), l.Pod("books", "api-1")} {
		r, err := web.Do(ctx, labapp.Request{
			Do: labapp.DoUpload, Address: to.At(labapp.SumPort).String(), Bytes: size, Timeout: 3 * time.Second,
		})
		if err != nil {
			return "", err
		}
		if r.Error != "" {
			return "", fmt.Errorf("%v to %v: no answer after the client's end: %s", web, to, r.Error)
		}
		if *r.Got != *r.Sent {
			return "", fmt.Errorf("%v got %+v, sent was %+v", to, *r.Got, *r.Sent)
		}
	}
	return "1 MiB, then FIN, then the server's sum of it: equal across nodes and on one node", nil
}

// serverFirst connects and says nothing.
func serverFirst(ctx context.Context, l *lab.Lab) (string, error) {
	web := l.Pod("shop", "web")
	var heard []string
	for _, to := range []*lab.Pod{l.Pod("books", "api-2"), l.Pod("books", "api-1")} {
		r, err := web.Do(ctx, labapp.Request{Do: labapp.DoBanner, Address: to.At(labapp.BannerPort).String(), Timeout: 3 * time.Second})
		if err != nil {
			return "", err
		}
		if r.Error != "" {
			return "", fmt.Errorf("%v heard nothing from %v: %s", web, to, r.Error)
		}
		if want := fmt.Sprintf("220 %v ready", to); r.Text != want {
			return "", fmt.Errorf("%v heard %q, want %q", web, r.Text, want)
		}
		heard = append(heard, fmt.Sprintf("%q", r.Text))
	}
	return "client said nothing and read " + strings.Join(heard, ", "), nil
}
