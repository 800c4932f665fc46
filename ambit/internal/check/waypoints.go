package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/ambit/internal/waypoints"
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
		out = append(out, Finding{
			Level: Error, Where: "waypoint " + name,
			What: fmt.Sprintf("there is no Gateway of that name, and traffic to what is bound to it is refused: %s", few(names(missing[name]), 5)),
			Do:   fmt.Sprintf("ambit waypoint apply %s --namespace %s --wait; or do without: the label istio.io/use-waypoint: none", gateway, namespace),
		})
	}
	for _, one := range w.Waypoints.List("") {
		if !one.Programmed {
			f := Finding{
				Level: Warning, Where: "waypoint " + one.String(), What: "it is not Programmed: " + one.Reason,
				Do: fmt.Sprintf("ambit waypoint status %s --namespace %s", one.Name, one.Namespace),
			}
			if len(one.Bound) > 0 {
				f.Level = Error
				f.What += "\nbound to it, and refused unless an instance is Ready: " + few(names(one.Bound), 5)
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

// names are those of what is bound.
func names(bound []waypoints.Bound) (out []string) {
	for _, b := range bound {
		out = append(out, b.String())
	}
	return out
}
