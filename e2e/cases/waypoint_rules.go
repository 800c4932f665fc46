package cases

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

// saidOf waits until the conditions of an object of the case say all of some things,
// wherever in its status they stand.
func (e *Env) saidOf(ctx context.Context, kind, name string, want ...string) error {
	return e.Until(ctx, decided, fmt.Sprintf("%s %s whose status says %q", kind, name, want), func(ctx context.Context) (bool, error) {
		text, err := e.Kubectl(ctx, "", "get", kind, name, "-o", "jsonpath={.status}")
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

// retried has what fails tried once more: HTTPRoute has retries only in the experimental
// channel of the Gateway API. budgetedBackend bounds them, and youngerBudget would bound
// them otherwise.
const (
	retried = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: again}
spec:
  hosts: [server]
  http: [{retries: {attempts: 1, retryOn: 5xx}, route: [{destination: {host: server}}]}]
`
	budgetedBackend = `
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: budget}
spec:
  targetRefs: [{group: "", kind: Service, name: server}]
  retryConstraint: {budget: {percent: 10, interval: 1h}, minRetryRate: {count: 1, interval: 1h}}
`
	youngerBudget = `
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: younger}
spec:
  targetRefs: [{group: "", kind: Service, name: server}]
  retryConstraint: {budget: {percent: 100, interval: 1h}}
`
	// budgetedProfile bounds those of a service of its own to what is allowed in any
	// case and one in a hundred.
	budgetedProfile = `
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: %[1]s.%[2]s.svc.cluster.local}
spec:
  routes: [{name: all, condition: {pathRegex: "/.*"}, isRetryable: true}]
  retryBudget: {retryRatio: 0.01, minRetriesPerSecond: 1, ttl: 10s}
`
)

func waypointBudgets(ctx context.Context, e *Env) (string, error) {
	client, err := e.throughWaypoint(ctx, 1) // a budget is one instance's
	if err != nil {
		return "", err
	}
	if err := e.Deploy(ctx, App{Name: "profiled"}); err != nil {
		return "", err
	}
	if _, err := e.Kubectl(ctx, "", "label", "service", "profiled", bind+"=waypoint"); err != nil {
		return "", err
	}
	if _, err := e.Kubectl(ctx, "", "scale", "deployment/server", "--replicas=1"); err != nil {
		return "", err
	}
	if err := e.WaitReady(ctx, e.Namespace, "server", 1); err != nil {
		return "", err
	}
	backend, err := e.backendBudget(ctx, client)
	if err != nil {
		return "", fmt.Errorf("XBackendTrafficPolicy: %w", err)
	}
	profile, err := e.profileBudget(ctx, client)
	if err != nil {
		return "", fmt.Errorf("ServiceProfile: %w", err)
	}
	return backend + "; " + profile, nil
}

// failing sends requests to which the app, of one pod, answers 503, and counts how often
// it was asked. Each name is another count.
func (e *Env) failing(ctx context.Context, client Pod, app, name string, requests int) (asked int, err error) {
	address := app + ":80"
	r, err := client.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: address, Header: fmt.Sprintf("%s: %s %d", labapp.AskFailFirst, name, 1<<30), Count: requests, Statuses: true})
	if err != nil {
		return 0, err
	}
	if r.Statuses[503] != requests {
		return 0, fmt.Errorf("of %d requests that fail %d answers 503, others %v and %d", requests, r.Statuses[503], r.Statuses, len(r.Hellos))
	}
	last, err := client.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: address, Header: labapp.AskFailFirst + ": " + name + " 0"})
	if err != nil {
		return 0, err
	}
	return last.Hellos[0].Try - 1, nil
}

// backendBudget: a tenth of the requests of an hour may be tried again. Without a policy
// the route's own budget, a fifth, and ten in a second, lets all of them.
func (e *Env) backendBudget(ctx context.Context, client Pod) (string, error) {
	if err := e.Apply(ctx, retried); err != nil {
		return "", err
	}
	if err := e.saidOf(ctx, "virtualservice", "again", `"reason":"Accepted"`, `"status":"True"`); err != nil {
		return "", err
	}
	round := 0
	err := e.Until(ctx, decided, "requests that are tried again", func(ctx context.Context) (bool, error) {
		round++
		asked, err := e.failing(ctx, client, "server", fmt.Sprintf("before-%d", round), 1)
		return asked == 2, err
	})
	if err != nil {
		return "", err
	}
	if err := e.Apply(ctx, budgetedBackend); err != nil {
		return "", err
	}
	if err := e.saidOf(ctx, "xbackendtrafficpolicy", "budget", `"reason":"Accepted"`, `"status":"True"`); err != nil {
		return "", err
	}
	if err := e.Apply(ctx, youngerBudget); err != nil {
		return "", err
	}
	if err := e.saidOf(ctx, "xbackendtrafficpolicy", "younger", `"reason":"Conflicted"`, "XBackendTrafficPolicy budget is older, and comes first"); err != nil {
		return "", err
	}
	if err := e.saidOf(ctx, "xbackendtrafficpolicy", "budget", "it comes before XBackendTrafficPolicy "+e.Namespace+"/younger"); err != nil {
		return "", err
	}
	if err := e.waypointSays(ctx, client, "server", "the retry budget of the service is used up"); err != nil {
		return "", err
	}
	const fine, failing, percent = 200, 50, 10
	if _, err := client.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: "server:80", Count: fine}); err != nil {
		return "", err
	}
	asked, err := e.failing(ctx, client, "server", "within", failing)
	if err != nil {
		return "", err
	}
	// What came before counts too, and the failing ones themselves.
	least, most := fine*percent/100, (fine+2*failing)*percent/100
	if retried := asked - failing; retried < least || retried > most {
		return "", fmt.Errorf("of %d requests that failed %d were tried again, want %d to %d", failing, retried, least, most)
	}
	return fmt.Sprintf("XBackendTrafficPolicy: after %d requests, of which %d %% may be tried again, %d of %d were, and the log named the budget; of two the older counted, and both said so",
		fine, percent, asked-failing, failing), nil
}

// waypointSays sends requests that fail until the log of the waypoint says something.
func (e *Env) waypointSays(ctx context.Context, client Pod, app, want string) error {
	return e.Until(ctx, decided, fmt.Sprintf("a waypoint whose log says %q", want), func(ctx context.Context) (bool, error) {
		if _, err := e.failing(ctx, client, app, "until", settled); err != nil {
			return false, err
		}
		log, err := e.Kubectl(ctx, "", "logs", "-l", ofGateway("waypoint"), "--tail=-1")
		return strings.Contains(log, want), err
	})
}

// profileBudget: one request in a second may be tried again, and one in a hundred.
func (e *Env) profileBudget(ctx context.Context, client Pod) (string, error) {
	if err := e.Apply(ctx, fmt.Sprintf(budgetedProfile, "profiled", e.Namespace)); err != nil {
		return "", err
	}
	name := "profiled." + e.Namespace + ".svc.cluster.local"
	if err := e.saidOf(ctx, "serviceprofile.linkerd.io", name, `"reason":"Accepted"`, `"status":"True"`); err != nil {
		return "", err
	}
	round := 0
	err := e.Until(ctx, decided, "requests that are tried again", func(ctx context.Context) (bool, error) {
		round++
		asked, err := e.failing(ctx, client, "profiled", fmt.Sprintf("before-%d", round), 1)
		return asked > 1, err
	})
	if err != nil {
		return "", err
	}
	const failing = 200
	start := time.Now()
	asked, err := e.failing(ctx, client, "profiled", "within", failing)
	if err != nil {
		return "", err
	}
	// One in a hundred, and one in each second that has begun.
	least, most := 1, failing/100+int(time.Since(start).Seconds())+2
	if retried := asked - failing; retried < least || retried > most {
		return "", fmt.Errorf("of %d requests that failed %d were tried again, want %d to %d", failing, retried, least, most)
	}
	return fmt.Sprintf("ServiceProfile: with one in a hundred and one a second %d of %d", asked-failing, failing), nil
}

// delegating leaves what begins with /team to another VirtualService; delegate is that
// one, which takes a part of it.
const (
	delegating = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root}
spec:
  hosts: [server]
  http:
  - {match: [{uri: {prefix: /team}}], delegate: {name: leaf}}
  - route: [{destination: {host: server}}]
`
	delegate = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: leaf}
spec:
  http:
  - match: [{uri: {prefix: %s}}]
    route: [{destination: {host: team}}]
`
)

func waypointDelegates(ctx context.Context, e *Env) (string, error) {
	client, err := e.throughWaypoint(ctx, 1)
	if err != nil {
		return "", err
	}
	if err := e.Deploy(ctx, App{Name: "team"}); err != nil {
		return "", err
	}
	// answered waits until requests of a path are answered by an app, or refused.
	answered := func(path, app string) error {
		return e.Until(ctx, decided, fmt.Sprintf("%s answered by %q", path, app), func(ctx context.Context) (bool, error) {
			r, err := client.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: "server:80", Path: path, Count: settled, Statuses: true})
			for _, h := range r.Hellos {
				if app == "" || !strings.HasPrefix(h.Pod, app+"-") {
					return false, fmt.Errorf("it is by %s", h.Pod)
				}
			}
			if err == nil && app != "" && len(r.Hellos) < settled {
				err = fmt.Errorf("answers %v", r.Statuses)
			}
			return err == nil, err
		})
	}
	steps := []struct {
		apply    string
		answered map[string]string // app by path; none: refused
		root     string            // what its status says
		leaf     string            // likewise; empty: there is none
	}{
		{delegating, map[string]string{"/team/a": "", "/x": "server"}, "there is no VirtualService " + e.Namespace + "/leaf", ""},
		{fmt.Sprintf(delegate, "/team/a"), map[string]string{"/team/a": "team", "/team/b": "server", "/x": "server"}, `"status":"True"`, `"status":"True"`},
		{fmt.Sprintf(delegate, "/other"), map[string]string{"/team/a": "server", "/other": "server"}, "asks for what this route does not let through (match[0].uri)", ""},
		{strings.ReplaceAll(delegating, "delegate: {name: leaf}", "route: [{destination: {host: server}}]"), map[string]string{"/team/a": "server"}, `"status":"True"`, "no VirtualService with hosts delegates to it"},
	}
	for i, s := range steps {
		if err := e.Apply(ctx, s.apply); err != nil {
			return "", err
		}
		if err := e.saidOf(ctx, "virtualservice", "root", s.root); err != nil {
			return "", fmt.Errorf("step %d: %w", i+1, err)
		}
		if s.leaf != "" {
			if err := e.saidOf(ctx, "virtualservice", "leaf", s.leaf); err != nil {
				return "", fmt.Errorf("step %d: %w", i+1, err)
			}
		}
		for path, app := range s.answered {
			if err := answered(path, app); err != nil {
				return "", fmt.Errorf("step %d: %w", i+1, err)
			}
		}
	}
	return "without the delegate its requests were refused, with it they went where it says, within what the root lets through; the statuses said what did not fit", nil
}
