package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/ambit-mesh/ambit/istiod-lite/files"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// annotated is a waypoint and its canary, and of all else that annotations of objects of
// Kubernetes itself decide.
const annotated = `
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: wp2}
  annotations: {istio.io/use-waypoint-canary-weight: "30", networking.istio.io/traffic-distribution: PreferClose}
---
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: wp2}
  annotations: {istio.io/use-waypoint-canary-weight: "10", networking.istio.io/traffic-distribution: PreferSameZone}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec: {clusterIP: 10.96.0.4, selector: {app: web}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: n1, serviceAccountName: web, containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}, {type: ContainersReady, status: "True"}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp2, namespace: shop}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: wp, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{name: mesh, port: 15008}]}
---
apiVersion: v1
kind: Service
metadata: {name: wp2, namespace: shop}
spec: {clusterIP: 10.96.0.3, ports: [{name: mesh, port: 15008}]}
`

// What is left of objects that were read of a cluster says all that the model reads: it
// comes to the same with them as with the whole ones.
func TestTrimmedObjectsSayTheSame(t *testing.T) {
	manifests := map[string]string{"annotations": annotated}
	paths, err := filepath.Glob("../model/testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, section := range strings.Split(string(text), "-- apply --\n")[1:] {
			section, _, _ = strings.Cut(section, "-- changes --")
			manifests[fmt.Sprintf("%s %d", filepath.Base(path), i)] = section
		}
	}
	trims := map[model.Kind]func(runtime.Object) model.Object{}
	for _, k := range kinds() {
		trims[k.kind] = k.trim
	}
	trimmed := 0
	for name, text := range manifests {
		t.Run(name, func(t *testing.T) {
			whole, err := files.Decode("test.yaml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			events := slices.Clone(whole)
			for i, e := range events {
				if trim := trims[e.Key.Kind]; trim != nil && e.Object != nil {
					events[i].Object = trim(e.Object.(runtime.Object).DeepCopyObject())
					trimmed++
				}
			}
			want, got := outcome(whole), outcome(events)
			for key, value := range want {
				if got[key] != value {
					t.Errorf("%s\nof trimmed objects: %s\nof whole ones:      %s", key, got[key], value)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d outcomes of trimmed objects, %d of whole ones", len(got), len(want))
			}
		})
	}
	if trimmed < 10 {
		t.Errorf("only %d objects", trimmed)
	}
}

// outcome is all that comes of events, and what is said of it.
func outcome(events []model.Event) map[string]string {
	m := model.New(model.Config{})
	m.Apply(events...)
	all := map[string]string{}
	for _, r := range m.Resources() {
		all[fmt.Sprint(r.Type, " ", r.Name)] = r.Version()
	}
	for key, conditions := range m.Conditions() {
		all["conditions of "+key.String()] = fmt.Sprint(conditions)
	}
	return all
}
