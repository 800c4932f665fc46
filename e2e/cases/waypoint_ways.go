package cases

import (
	"context"
	"fmt"
	"strings"

	"github.com/ambit-mesh/ambit/internal/lab/labapp"
)

const (
	// openLabel of a namespace has traffic go around a waypoint that fails, throughLabel
	// has callers let in around one that does not.
	openLabel    = "ambit.dev/on-waypoint-failure"
	throughLabel = "ambit.dev/only-through-waypoint"

	canaryLabel  = "istio.io/use-waypoint-canary"
	canaryWeight = "istio.io/use-waypoint-canary-weight"
)

// words is a text with one space between its words: what ambit prints in columns can
// be searched.
func words(text string) string { return strings.Join(strings.Fields(text), " ") }

// tells waits until a command of ambit says all of some things and none of others. That it
// fails is no error: ambit check does when it has found something.
func (e *Env) tells(ctx context.Context, says, not []string, args ...string) error {
	return e.Until(ctx, decided, fmt.Sprintf("ambit %s, which says %q", strings.Join(args, " "), says), func(ctx context.Context) (bool, error) {
		out, _ := e.Run(ctx, args...)
		for _, want := range says {
			if !strings.Contains(words(out), want) {
				return false, fmt.Errorf("it does not say %q:\n%s", want, out)
			}
		}
		for _, other := range not {
			if strings.Contains(words(out), other) {
				return false, fmt.Errorf("it says %q:\n%s", other, out)
			}
		}
		return true, nil
	})
}

func waypointOpen(ctx context.Context, e *Env) (string, error) {
	outside, err := e.Extra(ctx, "out", nil)
	if err != nil {
		return "", err
	}
	client, err := e.throughWaypoint(ctx, 1)
	if err != nil {
		return "", err
	}
	if err := e.Deploy(ctx, App{Name: "stranger", Namespace: outside}); err != nil {
		return "", err
	}
	strangers, err := e.PodsIn(ctx, outside, "stranger")
	if err != nil {
		return "", err
	}
	if err := e.aroundAlways(ctx, client, strangers[0]); err != nil {
		return "", fmt.Errorf("around a waypoint that serves: %w", err)
	}
	if err := e.aroundMissing(ctx, client); err != nil {
		return "", fmt.Errorf("around a waypoint that is missing: %w", err)
	}
	return "around a waypoint that serves, and one that is missing, callers were refused, with the reason in their log and by ambit why; " +
		"with either label they got in, and ambit check named the label; without it they were refused again", nil
}

// aroundAlways has callers come around a waypoint that serves, while the service says
// that they may.
func (e *Env) aroundAlways(ctx context.Context, client, stranger Pod) error {
	if err := e.seenFrom(ctx, client); err != nil {
		return err
	}
	server, err := e.Pod(ctx, "server")
	if err != nil {
		return err
	}
	address := server.At(labapp.HTTPPort)
	service, remark := "service "+e.Namespace+"/server", throughLabel+": false"
	refused := func() error {
		for _, from := range []Pod{client, stranger} {
			err := e.Until(ctx, decided, fmt.Sprintf("%v refused by %v", from, server), func(ctx context.Context) (bool, error) {
				err := from.Refused(ctx, address)
				return err == nil, err
			})
			if err != nil {
				return err
			}
		}
		if err := e.tells(ctx, []string{"on the ports of " + service + " it lets in nobody but the waypoint of that service"}, nil, "why", client.String(), server.String()); err != nil {
			return err
		}
		return e.tells(ctx, nil, []string{remark}, "check")
	}
	if err := refused(); err != nil {
		return err
	}
	// The caller's log says whose fault it is, the server's why.
	if err := e.logSays(ctx, client, "a policy of the destination refused it"); err != nil {
		return err
	}
	if err := e.logSays(ctx, server, "it came around the waypoint of "+service+", and the pod lets in nobody else on that port"); err != nil {
		return err
	}
	if _, err := e.Kubectl(ctx, "", "label", "service", "server", throughLabel+"=false"); err != nil {
		return err
	}
	for _, from := range []Pod{client, stranger} {
		if err := e.Reachable(ctx, from, address); err != nil {
			return err
		}
	}
	if err := e.seenFrom(ctx, client); err != nil { // by its name it goes through all the same
		return err
	}
	if err := e.tells(ctx, []string{"INFO " + service + " callers may come around its waypoint (label " + remark + ")"}, nil, "check"); err != nil {
		return err
	}
	if _, err := e.Kubectl(ctx, "", "label", "service", "server", throughLabel+"-"); err != nil {
		return err
	}
	return refused()
}

// aroundMissing has callers go around a waypoint that is missing, while the namespace
// says so, and through it again when it is there.
func (e *Env) aroundMissing(ctx context.Context, client Pod) error {
	if _, err := e.Kubectl(ctx, "", "delete", "gateway", "waypoint"); err != nil {
		return err
	}
	if err := e.gone(ctx, "waypoint"); err != nil {
		return err
	}
	service, waypoint, remark := e.Namespace+"/server", e.Namespace+"/waypoint", "(label "+openLabel+": open)"
	refused := func() error {
		err := e.Until(ctx, decided, "refusal", func(ctx context.Context) (bool, error) {
			err := client.Refused(ctx, "server:80")
			return err == nil, err
		})
		if err != nil {
			return err
		}
		if err := e.tells(ctx, []string{"calls to it are REFUSED: waypoint " + waypoint + " is not ready: there is no Gateway of that name"}, nil, "why", client.String(), service); err != nil {
			return err
		}
		return e.tells(ctx, []string{"ERROR waypoint " + waypoint + " there is no Gateway of that name, and traffic to what is bound to it is refused: service " + service}, []string{remark}, "check")
	}
	if err := refused(); err != nil {
		return err
	}
	if err := e.logSays(ctx, client, "unknown waypoint: waypoint "+waypoint+"."); err != nil {
		return err
	}
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{openLabel: "open"}); err != nil {
		return err
	}
	if err := e.Reachable(ctx, client, "server:80"); err != nil {
		return err
	}
	if err := e.boundBecause(ctx, "WaypointIsBypassed"); err != nil {
		return err
	}
	if err := e.tells(ctx, []string{"calls to it go around its waypoint: waypoint " + waypoint + " is not ready"}, nil, "why", client.String(), service); err != nil {
		return err
	}
	now := "WARNING namespace " + e.Namespace + " while a waypoint is missing or not ready traffic goes around it " + remark + " now: service " + service
	if err := e.tells(ctx, []string{now}, nil, "check"); err != nil {
		return err
	}
	if err := e.instances(ctx, "waypoint", 1); err != nil {
		return err
	}
	if err := e.seenFrom(ctx, client); err != nil {
		return err
	}
	if err := e.tells(ctx, []string{"INFO namespace " + e.Namespace + " while a waypoint is missing"}, []string{now}, "check"); err != nil {
		return err
	}
	if _, err := e.Kubectl(ctx, "", "delete", "gateway", "waypoint"); err != nil {
		return err
	}
	if err := e.gone(ctx, "waypoint"); err != nil {
		return err
	}
	if err := e.Reachable(ctx, client, "server:80"); err != nil {
		return err
	}
	if err := e.LabelNamespace(ctx, e.Namespace, map[string]string{openLabel: ""}); err != nil {
		return err
	}
	return refused()
}

// boundBecause waits until the server's Service says for what reason it is, or is not,
// served by its waypoint.
func (e *Env) boundBecause(ctx context.Context, want string) error {
	return e.Until(ctx, decided, "istio.io/WaypointBound because "+want, func(ctx context.Context) (bool, error) {
		said, err := e.Kubectl(ctx, "", "get", "service", "server", "-o", `jsonpath={.status.conditions[?(@.type=="istio.io/WaypointBound")].reason}`)
		if err == nil && said != want {
			err = fmt.Errorf("it is because %q", said)
		}
		return err == nil, err
	})
}

const (
	// shareRequests are so many that chance keeps a share within shareSlack points in all
	// but one of ten thousand runs: four standard deviations, at a half.
	shareRequests, shareSlack = 2000, 5
)

func waypointCanary(ctx context.Context, e *Env) (string, error) {
	client, err := e.throughWaypoint(ctx, 2)
	if err != nil {
		return "", err
	}
	if err := e.instances(ctx, "canary", 2); err != nil {
		return "", err
	}
	if err := e.seenFrom(ctx, client); err != nil {
		return "", err
	}
	load, err := e.Load(ctx, client, "server:80")
	if err != nil {
		return "", err
	}
	conversations, err := e.Talks(ctx, client, "server:7005")
	if err != nil {
		return "", err
	}
	if _, err := e.Kubectl(ctx, "", "label", "service", "server", canaryLabel+"=canary"); err != nil {
		return "", err
	}
	var shares []string
	for _, percent := range []int{25, 75, 0, 50} {
		got, err := e.shareOf(ctx, client, percent)
		if err != nil {
			return "", fmt.Errorf("with a weight of %d: %w", percent, err)
		}
		shares = append(shares, fmt.Sprintf("%d with a weight of %d", got, percent))
	}
	// It goes while it has half of the connections.
	if _, err := e.Kubectl(ctx, "", "delete", "gateway", "canary"); err != nil {
		return "", err
	}
	if err := e.gone(ctx, "canary"); err != nil {
		return "", err
	}
	if err := e.boundBecause(ctx, "CanaryIsNotReady"); err != nil {
		return "", err
	}
	if err := load.Flowing(ctx, rate); err != nil {
		return "", err
	}
	if err := conversations.Flowing(ctx, talks); err != nil {
		return "", err
	}
	now, err := load.Clean()
	if err != nil {
		return "", err
	}
	talked, err := conversations.CleanTalks()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("of %d connections the canary had %s; while weights changed and it was removed: %s; %d gRPC conversations of 3 s, %d failed",
		shareRequests, strings.Join(shares, ", "), summary(now), talked.Sent, talked.Failed), nil
}

// shareOf gives the canary a weight and counts how many connections it has of
// [shareRequests].
func (e *Env) shareOf(ctx context.Context, client Pod, percent int) (int, error) {
	if _, err := e.Kubectl(ctx, "", "annotate", "--overwrite", "service", "server", fmt.Sprintf("%s=%d", canaryWeight, percent)); err != nil {
		return 0, err
	}
	said := fmt.Sprintf("and %d %% of the connections to its canary %s/canary", percent, e.Namespace)
	err := e.Until(ctx, decided, "a Service that says "+said, func(ctx context.Context) (bool, error) {
		text, err := e.Kubectl(ctx, "", "get", "service", "server", "-o", "jsonpath={.status.conditions}")
		if err == nil && !strings.Contains(text, said) {
			err = fmt.Errorf("it says %s", text)
		}
		return err == nil, err
	})
	if err != nil {
		return 0, err
	}
	byCanary := map[string]bool{} // addresses
	pods, err := e.selected(ctx, e.Namespace, ofGateway("canary"))
	if err != nil {
		return 0, err
	}
	for _, p := range pods {
		byCanary[p.IP.String()] = true
	}
	count := func(ctx context.Context, n int) (int, error) {
		r, err := client.Do(ctx, labapp.Request{Do: labapp.DoHTTP, Address: "server:80", Count: n, AtOnce: 4})
		got := 0
		for _, h := range r.Hellos {
			host, _, _ := strings.Cut(h.Remote, ":")
			if byCanary[host] {
				got++
			}
		}
		return got, err
	}
	// The proxies hear of it a moment later than the status says it.
	err = e.Until(ctx, decided, fmt.Sprintf("a share of some %d %%", percent), func(ctx context.Context) (bool, error) {
		const few, roughly = 100, 20
		got, err := count(ctx, few)
		if err == nil && (got < percent-roughly || got > percent+roughly || percent == 0 && got > 0) {
			err = fmt.Errorf("%d of %d", got, few)
		}
		return err == nil, err
	})
	if err != nil {
		return 0, err
	}
	got, err := count(ctx, shareRequests)
	slack := shareSlack
	if percent == 0 {
		slack = 0
	}
	if err == nil && (got < shareRequests*(percent-slack)/100 || got > shareRequests*(percent+slack)/100) {
		err = fmt.Errorf("the canary had %d of %d connections, want %d %% within %d points", got, shareRequests, percent, slack)
	}
	return got, err
}
