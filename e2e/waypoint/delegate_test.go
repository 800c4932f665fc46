package waypoint

import (
	"strings"
	"testing"
)

// One VirtualService leaves a part of its requests to another, which has no hosts: its
// routes count there, within what the first lets through. Both statuses say it.
func TestVirtualServiceDelegates(t *testing.T) {
	w := newWorld(t)
	s := w.service("orders", "{name: http, port: 80, targetPort: 8080}", 1, echo)
	w.service("team", "{name: http, port: 80, targetPort: 8080}", 1, echo)
	root := `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root, namespace: shop}
spec:
  hosts: [orders]
  http:
  - match: [{uri: {prefix: /team}}]
    delegate: {name: leaf}
  - route: [{destination: {host: orders}}]
`
	leaf := func(prefix string) string {
		return `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: leaf, namespace: shop}
spec:
  http:
  - match: [{uri: {prefix: ` + prefix + `}}]
    route: [{destination: {host: team}}]
`
	}
	hc := w.client("web").http(s, 80, false)
	ask := func(path string) string {
		a := get(t.Context(), hc, "GET", path)
		return strings.TrimSuffix(a.pod(), "-0") + map[bool]string{true: "", false: "refused"}[a.status == 200]
	}
	w.apply("root", root)
	w.eventually("without the delegate its requests are refused", func() bool { return ask("/team/x") == "refused" && ask("/x") == "orders" })
	if c := w.condition("VirtualService", "root"); !strings.Contains(c, "there is no VirtualService shop/leaf") {
		t.Errorf("root's condition: %s", c)
	}
	w.apply("leaf", leaf("/team/a"))
	w.eventually("the delegate's routes count", func() bool { return ask("/team/a") == "team" && ask("/team/b") == "orders" && ask("/x") == "orders" })
	w.apply("leaf", leaf("/other"))
	w.eventually("what the root does not let through does not", func() bool { return ask("/other") == "orders" && ask("/team/a") == "orders" })
	if c := w.condition("VirtualService", "root"); !strings.Contains(c, "asks for what this route does not let through (match[0].uri)") {
		t.Errorf("root's condition: %s", c)
	}
	w.apply("root", strings.ReplaceAll(root, "delegate: {name: leaf}", "route: [{destination: {host: orders}}]"))
	w.eventually("nobody delegates", func() bool {
		return strings.Contains(w.condition("VirtualService", "leaf"), "no VirtualService with hosts delegates to it")
	})
}
