package cases

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// givenCases apply manifests that users of other meshes have, unchanged.
func givenCases() []Case {
	return []Case{
		{Name: "given-policies", About: "policies that users have hold as written, at a waypoint and, as far as possible, without", Run: givenPolicies},
		{Name: "given-traffic", About: "a VirtualService and a DestinationRule that users have hold as written", Run: givenTraffic},
		{Name: "given-profile", About: "a ServiceProfile that users have holds as written", Run: givenProfile},
	}
}

const (
	// production is the namespace that the manifests are for, orders the service.
	production, orders = "production", "order-service"
	// decided is how long what was applied may take to count everywhere.
	decided = 20 * time.Second
)

// given applies one of the manifests, unchanged.
func (e *Env) given(ctx context.Context, name string) error {
	text, err := os.ReadFile(filepath.Join(e.Manifests, name+".yaml"))
	if err != nil {
		return err
	}
	_, err = e.Kubectl(ctx, string(text), "apply", "--namespace", production, "-f", "-")
	return err
}

// ungiven takes one away again.
func (e *Env) ungiven(ctx context.Context, name string) error {
	_, err := e.Kubectl(ctx, "", "delete", "--namespace", production, "-f", filepath.Join(e.Manifests, name+".yaml"))
	return err
}

// said waits until the status of an object says something in its conditions.
func (e *Env) said(ctx context.Context, kind, name string, want ...string) error {
	return e.Until(ctx, decided, fmt.Sprintf("%s %s whose status says %q", kind, name, want), func(ctx context.Context) (bool, error) {
		text, err := e.Kubectl(ctx, "", "get", "--namespace", production, kind, name, "-o", "jsonpath={.status.conditions}")
		if err != nil {
			return false, err
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				return false, fmt.Errorf("it says %s", text)
			}
		}
		return true, nil
	})
}

// produce makes the namespace, in the mesh, with apps.
func (e *Env) produce(ctx context.Context, apps ...App) error {
	e.others = append(e.others, production)
	if err := e.makeNamespace(ctx, production, map[string]string{modeLabel: modeMesh}); err != nil {
		return err
	}
	for i := range apps {
		apps[i].Namespace = production
	}
	return e.Deploy(ctx, apps...)
}

// serveProduction makes a waypoint of one instance for the namespace, as a person
// does: limits of a DestinationRule are those of one instance.
func (e *Env) serveProduction(ctx context.Context) error {
	if out, err := e.Run(ctx, "waypoint", "apply", "--namespace", production); err != nil {
		return fmt.Errorf("%w:\n%s", err, out)
	}
	if _, err := e.Kubectl(ctx, "", "annotate", "--namespace", production, "gateway", "waypoint", "ambit.dev/waypoint-replicas=1", "ambit.dev/waypoint-max-replicas=1"); err != nil {
		return err
	}
	out, err := e.Run(ctx, "waypoint", "apply", "--namespace", production, "--enroll-namespace", "--wait")
	if err != nil {
		return fmt.Errorf("%w:\n%s", err, out)
	}
	return nil
}

// servedTo makes the namespace with apps, a waypoint before them, and a client.
func (e *Env) servedTo(ctx context.Context, apps ...App) (web Pod, err error) {
	if err := e.produce(ctx, append(apps, App{Name: "web"})...); err != nil {
		return web, err
	}
	if err := e.serveProduction(ctx); err != nil {
		return web, err
	}
	pods, err := e.PodsIn(ctx, production, "web")
	if err != nil {
		return web, err
	}
	return pods[0], nil
}

// asked is a request and the status that it should get.
type asked struct {
	from, method, path string
	want               int
}

// statusOf sends one request from an app to the service: 0 when it was refused without
// an answer.
func (e *Env) statusOf(ctx context.Context, a asked) (int, error) {
	pods, err := e.PodsIn(ctx, production, a.from)
	if err != nil {
		return 0, err
	}
	r, err := pods[0].Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: orders + ":80", Method: a.method, Path: a.path, Statuses: true})
	switch {
	case len(r.Hellos) > 0:
		return 200, nil
	case len(r.Statuses) == 0:
		e.Note("%s %s from %s: %v", a.method, a.path, a.from, err)
		return 0, nil
	}
	for status := range r.Statuses {
		return status, nil
	}
	return 0, err
}

// all makes sure that requests get what they should. What was applied has a while to
// count for the first of them; it counts for all then.
func (e *Env) all(ctx context.Context, requests ...asked) error {
	first := requests[0]
	err := e.Until(ctx, decided, fmt.Sprintf("%s %s from %s: %d", first.method, first.path, first.from, first.want), func(ctx context.Context) (bool, error) {
		status, err := e.statusOf(ctx, first)
		if err == nil && status != first.want {
			err = fmt.Errorf("it is %d", status)
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	for _, a := range requests {
		status, err := e.statusOf(ctx, a)
		if err != nil {
			return err
		}
		if status != a.want {
			return fmt.Errorf("%s %s from %s: %d, want %d", a.method, a.path, a.from, status, a.want)
		}
	}
	return nil
}

func givenPolicies(ctx context.Context, e *Env) (string, error) {
	outside, err := e.Extra(ctx, "out", nil)
	if err != nil {
		return "", err
	}
	if err := e.Deploy(ctx, App{Name: "stranger", Namespace: outside, Replicas: 2}); err != nil {
		return "", err
	}
	err = e.produce(ctx, App{Name: orders, Replicas: 2}, App{Name: "api-service"}, App{Name: "api-gateway"}, App{Name: "payment-service"}, App{Name: "web"})
	if err != nil {
		return "", err
	}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"peer-authentication-strict", func(ctx context.Context) error { return e.givenStrict(ctx, outside) }},
		{"authz-order-service without a waypoint", e.givenWithoutWaypoint},
		{"authz-order-service", e.givenOrders},
		{"deny-all and allow-orders", e.givenDenyAndAllow},
	}
	for _, s := range steps {
		if err := s.do(ctx); err != nil {
			return "", fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return "STRICT refused strangers; without a waypoint nobody got in and the status and ambit check said so; at the waypoint each caller could do what it may, and nothing else", nil
}

// givenStrict: plaintext callers are refused, mesh callers are not.
func (e *Env) givenStrict(ctx context.Context, outside string) error {
	if err := e.given(ctx, "peer-authentication-strict"); err != nil {
		return err
	}
	strangers, err := e.PodsIn(ctx, outside, "stranger")
	if err != nil {
		return err
	}
	servers, err := e.PodsIn(ctx, production, orders)
	if err != nil {
		return err
	}
	for _, s := range strangers {
		for _, p := range servers {
			err := e.Until(ctx, decided, fmt.Sprintf("%v refused by %v", s, p), func(ctx context.Context) (bool, error) {
				err := s.Refused(ctx, p.At(labapp.HTTPPort))
				return err == nil, err
			})
			if err != nil {
				return err
			}
		}
	}
	return e.all(ctx, asked{"web", "GET", "/", 200}, asked{"api-service", "POST", "/api/orders", 200})
}

// givenWithoutWaypoint: nobody gets in, and the status says why.
func (e *Env) givenWithoutWaypoint(ctx context.Context) error {
	if err := e.given(ctx, "authz-order-service"); err != nil {
		return err
	}
	if err := e.all(ctx, asked{"api-service", "GET", "/api/orders", 0}, asked{"api-service", "POST", "/api/orders", 0}, asked{"web", "GET", "/api/orders", 0}); err != nil {
		return err
	}
	if err := e.said(ctx, "authorizationpolicy", "order-service-policy", "only a waypoint can see methods, paths", "nobody gets in"); err != nil {
		return err
	}
	text, err := e.Run(ctx, "check") // it fails: there is something to correct
	if !strings.Contains(text, "authorizationpolicy production/order-service-policy") {
		return fmt.Errorf("ambit check does not name the policy (%w):\n%s", err, text)
	}
	return nil
}

// givenOrders: only api-service may GET or POST /api/orders*.
func (e *Env) givenOrders(ctx context.Context) error {
	if err := e.serveProduction(ctx); err != nil {
		return err
	}
	err := e.all(ctx,
		asked{"api-service", "GET", "/api/orders", 200}, asked{"api-service", "POST", "/api/orders/1", 200}, asked{"api-service", "DELETE", "/api/orders/1", 403},
		asked{"api-service", "GET", "/api/users", 403}, asked{"web", "GET", "/api/orders", 403}, asked{"web", "POST", "/api/orders", 403}, asked{"web", "GET", "/", 403})
	if err != nil {
		return err
	}
	if err := e.said(ctx, "authorizationpolicy", "order-service-policy", "WaypointAccepted"); err != nil {
		return err
	}
	return e.ungiven(ctx, "authz-order-service")
}

// givenDenyAndAllow: an empty spec refuses everyone; then the gateway may do
// everything, and the payment service read the status of one order.
func (e *Env) givenDenyAndAllow(ctx context.Context) error {
	if err := e.all(ctx, asked{"web", "GET", "/", 200}); err != nil {
		return err
	}
	if err := e.given(ctx, "deny-all"); err != nil {
		return err
	}
	if err := e.all(ctx, asked{"web", "GET", "/", 403}, asked{"api-gateway", "GET", "/", 403}, asked{"api-service", "GET", "/api/orders", 403}); err != nil {
		return err
	}
	if err := e.given(ctx, "allow-orders"); err != nil {
		return err
	}
	const pay = "payment-service"
	return e.all(ctx,
		asked{"api-gateway", "DELETE", "/anything", 200}, asked{"api-gateway", "GET", "/", 200}, asked{pay, "GET", "/api/orders/7/status", 200},
		asked{pay, "POST", "/api/orders/7/status", 403}, asked{pay, "GET", "/api/orders/status", 403}, asked{pay, "GET", "/api/orders/7/8/status", 403},
		asked{pay, "GET", "/api/orders/7%2f8/status", 403}, asked{pay, "GET", "/api/orders/7", 403}, asked{"web", "GET", "/api/orders/7/status", 403})
}

func givenTraffic(ctx context.Context, e *Env) (string, error) {
	web, err := e.servedTo(ctx, App{Name: orders, Version: "v1", Replicas: 2}, App{Name: orders, Version: "v2"})
	if err != nil {
		return "", err
	}
	if err := e.given(ctx, "destination-rule"); err != nil {
		return "", err
	}
	if err := e.said(ctx, "destinationrule", orders, `"status":"True"`, "consecutive5xxErrors", "each instance of a waypoint"); err != nil {
		return "", err
	}
	var evidence []string
	for _, step := range []func(context.Context, Pod) (string, error){e.givenCanary, e.givenOutlier, e.givenConnections, e.givenRequests} {
		text, err := step(ctx, web)
		if err != nil {
			return "", err
		}
		evidence = append(evidence, text)
	}
	return strings.Join(evidence, "; "), nil
}

// givenCanary: the header goes to v2, the rest 90/10 over 2,000 requests, within two
// points.
func (e *Env) givenCanary(ctx context.Context, web Pod) (string, error) {
	if err := e.given(ctx, "canary-virtual-service"); err != nil {
		return "", err
	}
	if err := e.said(ctx, "virtualservice", orders, `"status":"True"`); err != nil {
		return "", err
	}
	// versions counts who answers requests with a header.
	versions := func(ctx context.Context, header string, count int) (v1, v2 int, err error) {
		r, err := web.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: orders + ":80", Header: header, Count: count, AtOnce: 4})
		for _, h := range r.Hellos {
			if strings.HasPrefix(h.Pod, orders+"-v2-") {
				v2++
			} else {
				v1++
			}
		}
		return v1, v2, err
	}
	err := e.Until(ctx, decided, "the header leads to v2", func(ctx context.Context) (bool, error) {
		v1, _, err := versions(ctx, "x-canary: true", 2*settled)
		return err == nil && v1 == 0, err
	})
	if err != nil {
		return "", err
	}
	if v1, v2, err := versions(ctx, "X-Canary: true", 100); err != nil || v1 != 0 {
		return "", fmt.Errorf("with the header: %d by v1, %d by v2, %w", v1, v2, err)
	}
	const requests, share, points = 2000, 10, 2
	v1, v2, err := versions(ctx, "", requests)
	if err != nil {
		return "", err
	}
	if v1+v2 != requests || v2 < requests*(share-points)/100 || v2 > requests*(share+points)/100 {
		return "", fmt.Errorf("of %d requests %d by v1 and %d by v2, want 90/10 within 2 points", requests, v1, v2)
	}
	return fmt.Sprintf("100 requests with the header all by v2, of %d others %d by v2", requests, v2), e.ungiven(ctx, "canary-virtual-service")
}

// givenOutlier: an endpoint with 5 errors is out for 30 s, then tried again.
func (e *Env) givenOutlier(ctx context.Context, web Pod) (string, error) {
	servers, err := e.PodsIn(ctx, production, orders)
	if err != nil {
		return "", err
	}
	sick := labapp.AskFailAt + ": " + servers[0].Name
	// errors counts the answers of the sick one among some.
	errors := func(ctx context.Context, count int) (int, error) {
		r, err := web.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: orders + ":80", Header: sick, Count: count, Statuses: true})
		return r.Statuses[503], err
	}
	err = e.Until(ctx, decided, "requests that follow no VirtualService any more", func(ctx context.Context) (bool, error) {
		r, err := web.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: orders + ":80", Count: 12})
		v2 := 0
		for _, h := range r.Hellos {
			if strings.HasPrefix(h.Pod, orders+"-v2-") {
				v2++
			}
		}
		return err == nil && v2 >= 3, err
	})
	if err != nil {
		return "", err
	}
	bad, err := errors(ctx, 100)
	out := time.Now()
	if err != nil || bad != 5 {
		return "", fmt.Errorf("%d of 100 requests got an error of the sick endpoint before it was out, want 5: %w", bad, err)
	}
	for {
		bad, err := errors(ctx, 10)
		if err != nil {
			return "", err
		}
		if bad > 0 {
			break
		}
		if time.Since(out) > 75*time.Second {
			return "", fmt.Errorf("the endpoint was not tried again within %v", time.Since(out))
		}
	}
	// It is out for 30 s from its fifth error, which was a moment before.
	took := time.Since(out)
	if took < 27*time.Second || took > 62*time.Second {
		return "", fmt.Errorf("the endpoint was tried again after %v, want 30 s", took)
	}
	return fmt.Sprintf("after 5 errors the endpoint was out, and tried again after %.0f s", took.Seconds()), nil
}

// scale sets how many pods the two versions have, and waits.
func (e *Env) scale(ctx context.Context, v1, v2 int) error {
	for version, n := range map[string]int{"v1": v1, "v2": v2} {
		if _, err := e.Kubectl(ctx, "", "scale", "--namespace", production, "deployment/"+orders+"-"+version, fmt.Sprintf("--replicas=%d", n)); err != nil {
			return err
		}
	}
	return e.WaitReady(ctx, production, orders, v1+v2)
}

// givenConnections: at most 100 TCP connections.
func (e *Env) givenConnections(ctx context.Context, web Pod) (string, error) {
	if err := e.scale(ctx, 1, 0); err != nil {
		return "", err
	}
	if err := e.Reachable(ctx, web, orders+".production:80"); err != nil {
		return "", err
	}
	const limit, requests = 100, 150
	r, err := web.Do(ctx, labapp.Request{
		Do: labapp.DoHTTP, Address: orders + ":80", Header: labapp.AskWait + ": 3s", Count: requests, AtOnce: requests, Timeout: 20 * time.Second, Statuses: true,
	})
	if err != nil {
		return "", err
	}
	most := 0
	for _, h := range r.Hellos {
		most = max(most, h.Busy)
	}
	if most != limit || len(r.Hellos) != requests {
		return "", fmt.Errorf("of %d requests at once %d were answered (others %v) and %d were in the server's hands at a time, want %d", requests, len(r.Hellos), r.Statuses, most, limit)
	}
	return fmt.Sprintf("of %d requests at once %d connections at a time", requests, most), nil
}

// givenRequests: at most 1,000 concurrent HTTP/2 requests.
func (e *Env) givenRequests(ctx context.Context, web Pod) (string, error) {
	const limit, asked = 1000, 1100
	load, err := e.begin(ctx, web, labapp.Request{Do: labapp.DoTalk, Address: orders + ":7005", Count: asked, Rate: 1, Timeout: 20 * time.Second})
	if err != nil {
		return "", err
	}
	err = e.Until(ctx, 60*time.Second, fmt.Sprintf("%d conversations, and others that are refused", limit), func(context.Context) (bool, error) {
		now, err := load.Now()
		if err == nil && (now.Failed == 0 || now.Busy < limit) {
			err = fmt.Errorf("%d at a time, %d refused", now.Busy, now.Failed)
		}
		return err == nil, err
	})
	if err == nil { // and none more for some rounds of those that were refused
		err = lifecycle.Sleep(ctx, 3*time.Second)
	}
	if err != nil {
		return "", err
	}
	now, err := load.Stop()
	if err != nil {
		return "", err
	}
	if now.Busy > limit || now.OK < limit {
		return "", fmt.Errorf("%d conversations went on at a time and %d were held, want %d; %s", now.Busy, now.OK, limit, firstFailure(now))
	}
	return fmt.Sprintf("of %d conversations by HTTP/2 %d at a time", asked, now.Busy), nil
}

func givenProfile(ctx context.Context, e *Env) (string, error) {
	web, err := e.servedTo(ctx, App{Name: orders})
	if err != nil {
		return "", err
	}
	if err := e.given(ctx, "service-profile"); err != nil {
		return "", err
	}
	if err := e.said(ctx, "serviceprofile.linkerd.io", "order-service.production.svc.cluster.local", `"status":"True"`, "WaypointAccepted"); err != nil {
		return "", err
	}
	ask := func(ctx context.Context, method, path, header string) (labapp.Reply, time.Duration, error) {
		start := time.Now()
		r, err := web.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: orders + ":80", Method: method, Path: path, Header: header, Statuses: true, Timeout: 20 * time.Second})
		return r, time.Since(start), err
	}
	// GET: two failures are tried again, unseen.
	round := 0
	err = e.Until(ctx, decided, "a GET that is tried again", func(ctx context.Context) (bool, error) {
		round++
		r, _, err := ask(ctx, "GET", "/api/orders/1", fmt.Sprintf("%s: get-%d 2", labapp.AskFailFirst, round))
		return err == nil && len(r.Hellos) == 1 && r.Hellos[0].Try == 3, err
	})
	if err != nil {
		return "", err
	}
	// POST: each failure is the client's.
	for try := 1; try <= 3; try++ {
		r, _, err := ask(ctx, "POST", "/api/orders", labapp.AskFailFirst+": post 2")
		if err != nil {
			return "", err
		}
		if try < 3 && r.Statuses[503] != 1 || try == 3 && (len(r.Hellos) != 1 || r.Hellos[0].Try != 3) {
			return "", fmt.Errorf("POST %d: %+v %v: it was tried again", try, r.Hellos, r.Statuses)
		}
	}
	for _, tt := range []struct {
		method, path string
		want         time.Duration
	}{{"GET", "/api/orders/1", 2 * time.Second}, {"POST", "/api/orders", 5 * time.Second}} {
		r, took, err := ask(ctx, tt.method, tt.path, labapp.AskWait+": 10s")
		if err != nil {
			return "", err
		}
		if r.Statuses[504] != 1 || took < tt.want || took > tt.want+2*time.Second {
			return "", fmt.Errorf("%s that takes long: %v %+v after %v, want 504 after %v", tt.method, r.Statuses, r.Hellos, took, tt.want)
		}
	}
	return "GET was tried three times and ended after 2 s, POST once, and ended after 5 s", nil
}
