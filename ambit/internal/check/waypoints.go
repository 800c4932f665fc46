package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/ambit/internal/waypoints"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// waypointsReady finds waypoints that are asked for and missing, or not Programmed,
// and what is refused for another reason.
func waypointsReady(w *World, _ time.Time) (out []Finding) {
	if w.Inventory == nil || w.Waypoints == nil {
		return nil
	}
	missing := w.Waypoints.Missing()
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		namespace, gateway, _ := strings.Cut(name, "/")
		what, level := "there is no Gateway of that name", Warning
		if refused := notAround(missing[name]); len(refused) > 0 {
			what += ", and traffic to what is bound to it is refused: " + few(names(refused), 5)
			level = Error
		}
		out = append(out, Finding{
			Level: level, Where: "waypoint " + name, What: what,
			Do: fmt.Sprintf("ambit waypoint apply %s --namespace %s --wait; or do without: the label istio.io/use-waypoint: none", gateway, namespace),
		})
	}
	for _, one := range w.Waypoints.List("") {
		if !one.Programmed {
			f := Finding{
				Level: Warning, Where: "waypoint " + one.String(), What: "it is not Programmed: " + one.Reason,
				Do: fmt.Sprintf("ambit waypoint status %s --namespace %s", one.Name, one.Namespace),
			}
			if refused := notAround(one.Bound); len(refused) > 0 {
				f.Level = Error
				f.What += "\nbound to it, and refused unless an instance is Ready: " + few(names(refused), 5)
			}
			out = append(out, f)
			continue
		}
		for _, b := range one.Refused() {
			out = append(out, Finding{Level: Error, Where: b.String(), What: b.Refused, Do: "correct its label istio.io/use-waypoint, or the waypoint"})
		}
	}
	return out
}

// notAround are those of what is bound whose traffic does not go around the waypoint.
func notAround(bound []waypoints.Bound) []waypoints.Bound {
	return slices.DeleteFunc(slices.Clone(bound), func(b waypoints.Bound) bool { return b.Around != "" || b.Canary })
}

// waysAround lists where traffic may go around waypoints, because somebody has asked
// for that: always, or while one fails; and where it does now.
func waysAround(w *World, _ time.Time) (out []Finding) {
	if w.Waypoints == nil {
		return nil
	}
	around := map[string][]string{} // by namespace, what is reached around its waypoint now
	for _, b := range w.Waypoints.Bindings() {
		if b.Around != "" {
			namespace := cmp.Or(b.Namespace, b.Name)
			around[namespace] = append(around[namespace], b.String())
		}
	}
	pods := map[string][]string{}
	for _, way := range w.Waypoints.WaysAround() {
		o := way.Object
		f := Finding{Level: Info, Where: strings.ToLower(string(o.Kind)) + " " + strings.TrimPrefix(o.Namespace+"/"+o.Name, "/")}
		switch {
		case o.Kind == model.KindPod:
			pods[o.Namespace] = append(pods[o.Namespace], o.Name)
			continue
		case way.Always:
			f.What = fmt.Sprintf("callers may come around its waypoint (label %s)", way.Label)
			f.Do = "remove the label when nobody has to: what only a waypoint decides is not decided about such callers"
		default:
			f.What = fmt.Sprintf("while a waypoint is missing or not ready traffic goes around it (label %s)", way.Label)
			f.Do = "remove the label to have such traffic refused: what only a waypoint decides is not decided meanwhile"
			if now := around[o.Name]; len(now) > 0 {
				f.Level = Warning
				f.What += "\nnow: " + few(now, 5)
			}
		}
		out = append(out, f)
	}
	for _, namespace := range slices.Sorted(maps.Keys(pods)) {
		out = append(out, Finding{
			Level: Info, Where: "namespace " + namespace,
			What: "callers of these pods may come around their waypoint (label of theirs): " + few(pods[namespace], 5),
			Do:   "remove the label where nobody has to: what only a waypoint decides is not decided about such callers",
		})
	}
	return out
}

// names are those of what is bound.
func names(bound []waypoints.Bound) (out []string) {
	for _, b := range bound {
		out = append(out, b.String())
	}
	return out
}
