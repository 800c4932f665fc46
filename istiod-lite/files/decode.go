package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	experimental "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/ambit-mesh/ambit/internal/yamldir"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// decoded is one object of a file.
type decoded struct {
	key    model.Key
	object model.Object
	doc    *yamldir.Document
}

// format is how one kind is written.
type format struct {
	group    string
	versions []string
	decode   func(*yamldir.Document) (model.Object, error)
}

// formats are the kinds that are read.
var formats = map[model.Kind]format{
	model.KindNamespace:             {"", []string{"v1"}, plain[corev1.Namespace]},
	model.KindNode:                  {"", []string{"v1"}, plain[corev1.Node]},
	model.KindServiceAccount:        {"", []string{"v1"}, plain[corev1.ServiceAccount]},
	model.KindPod:                   {"", []string{"v1"}, plain[corev1.Pod]},
	model.KindService:               {"", []string{"v1"}, plain[corev1.Service]},
	model.KindEndpointSlice:         {"discovery.k8s.io", []string{"v1"}, plain[discoveryapi.EndpointSlice]},
	model.KindGatewayClass:          {"gateway.networking.k8s.io", []string{"v1", "v1beta1"}, plain[gateway.GatewayClass]},
	model.KindGateway:               {"gateway.networking.k8s.io", []string{"v1", "v1beta1"}, plain[gateway.Gateway]},
	model.KindHTTPRoute:             {"gateway.networking.k8s.io", []string{"v1", "v1beta1"}, plain[gateway.HTTPRoute]},
	model.KindGRPCRoute:             {"gateway.networking.k8s.io", []string{"v1", "v1alpha2"}, plain[gateway.GRPCRoute]},
	model.KindTLSRoute:              {"gateway.networking.k8s.io", []string{"v1", "v1alpha3", "v1alpha2"}, plain[gateway.TLSRoute]},
	model.KindTCPRoute:              {"gateway.networking.k8s.io", []string{"v1", "v1alpha2"}, plain[gateway.TCPRoute]},
	model.KindBackendPolicy:         {"gateway.networking.x-k8s.io", []string{"v1alpha1"}, plain[experimental.XBackendTrafficPolicy]},
	model.KindRateLimit:             {model.RateLimitGroup, []string{"v1alpha1"}, plain[model.RateLimit]},
	model.KindReferenceGrant:        {"gateway.networking.k8s.io", []string{"v1", "v1beta1"}, plain[gateway.ReferenceGrant]},
	model.KindVirtualService:        {"networking.istio.io", []string{"v1", "v1beta1", "v1alpha3"}, virtualService},
	model.KindDestinationRule:       {"networking.istio.io", []string{"v1", "v1beta1", "v1alpha3"}, destinationRule},
	model.KindServiceProfile:        {"linkerd.io", []string{"v1alpha2"}, plain[model.ServiceProfile]},
	model.KindAuthorizationPolicy:   {"security.istio.io", []string{"v1", "v1beta1"}, authorizationPolicy},
	model.KindPeerAuthentication:    {"security.istio.io", []string{"v1", "v1beta1"}, peerAuthentication},
	model.KindWorkloadEntry:         {"networking.istio.io", []string{"v1", "v1beta1", "v1alpha3"}, workloadEntry},
	model.KindServiceEntry:          {"networking.istio.io", []string{"v1", "v1beta1", "v1alpha3"}, serviceEntry},
	model.KindRequestAuthentication: {"security.istio.io", []string{"v1", "v1beta1"}, requestAuthentication},
	model.KindConfigMap:             {"", []string{"v1"}, plain[corev1.ConfigMap]},
}

// formatOf finds the format of a document. known is false for kinds that the
// model does not read. A version that is not served is an error: what its author
// wrote must not be ignored in silence.
func formatOf(d *yamldir.Document) (f format, known bool, err error) {
	f, known = formats[model.Kind(d.Kind)]
	if !known || f.group != d.Key().Group {
		return f, false, nil
	}
	version := strings.TrimPrefix(d.APIVersion, f.group+"/")
	if !slices.Contains(f.versions, version) {
		return f, true, d.Errorf("apiVersion", "%q is not served for %s: want version %s", d.APIVersion, d.Kind, strings.Join(f.versions, " or "))
	}
	return f, true, nil
}

// decodeFile decodes and checks every object of a file that the model reads. The
// errors are [*yamldir.Error]s, joined.
func decodeFile(f *yamldir.File) ([]decoded, error) {
	var all []decoded
	var errs []error
	for _, d := range f.Documents {
		format, known, err := formatOf(d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !known {
			continue
		}
		o, err := format.decode(d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		key := model.Key{Kind: model.Kind(d.Kind), Name: d.Name}
		if !key.Kind.ClusterScoped() {
			key.Namespace = d.Key().Namespace
			o.SetNamespace(key.Namespace)
		}
		problems := model.Validate(key.Kind, o)
		for _, problem := range problems {
			errs = append(errs, d.At(problem.Path, problem))
		}
		if len(problems) == 0 {
			all = append(all, decoded{key: key, object: o, doc: d})
		}
	}
	return all, errors.Join(errs...)
}

// plain decodes a type that is written as its Go struct says.
func plain[T any, P interface {
	*T
	model.Object
}](d *yamldir.Document) (model.Object, error) {
	o := P(new(T))
	if err := d.Decode(o); err != nil {
		return nil, err
	}
	return o, nil
}

// envelope is an object whose specification is a protocol buffer message. The
// status is what others wrote about it and is not read.
type envelope struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              json.RawMessage `json:"spec"`
	Status            json.RawMessage `json:"status"`
}

// decodeSpec fills spec and returns the rest of the object.
func decodeSpec(d *yamldir.Document, spec proto.Message) (envelope, error) {
	var e envelope
	if err := d.Decode(&e); err != nil {
		return e, err
	}
	if len(e.Spec) == 0 || string(e.Spec) == "null" {
		return e, nil
	}
	return e, d.DecodeMessage("spec", e.Spec, spec)
}

// authorizationPolicy decodes any version of it: they have one content.
func authorizationPolicy(d *yamldir.Document) (model.Object, error) {
	o := &security.AuthorizationPolicy{}
	e, err := decodeSpec(d, &o.Spec)
	o.TypeMeta, o.ObjectMeta = e.TypeMeta, e.ObjectMeta
	return o, err
}

// peerAuthentication decodes any version of it.
func peerAuthentication(d *yamldir.Document) (model.Object, error) {
	o := &security.PeerAuthentication{}
	e, err := decodeSpec(d, &o.Spec)
	o.TypeMeta, o.ObjectMeta = e.TypeMeta, e.ObjectMeta
	return o, err
}

// requestAuthentication decodes any version of it.
func requestAuthentication(d *yamldir.Document) (model.Object, error) {
	o := &security.RequestAuthentication{}
	e, err := decodeSpec(d, &o.Spec)
	o.TypeMeta, o.ObjectMeta = e.TypeMeta, e.ObjectMeta
	return o, err
}

// workloadEntry decodes any version of it.
func workloadEntry(d *yamldir.Document) (model.Object, error) {
	o := &networking.WorkloadEntry{}
	e, err := decodeSpec(d, &o.Spec)
	o.TypeMeta, o.ObjectMeta = e.TypeMeta, e.ObjectMeta
	return o, err
}

// serviceEntry decodes any version of it.
func serviceEntry(d *yamldir.Document) (model.Object, error) {
	o := &networking.ServiceEntry{}
	e, err := decodeSpec(d, &o.Spec)
	o.TypeMeta, o.ObjectMeta = e.TypeMeta, e.ObjectMeta
	return o, err
}

// virtualService decodes any version of it.
func virtualService(d *yamldir.Document) (model.Object, error) {
	o := &networking.VirtualService{}
	e, err := decodeSpec(d, &o.Spec)
	o.TypeMeta, o.ObjectMeta = e.TypeMeta, e.ObjectMeta
	return o, err
}

// destinationRule decodes any version of it.
func destinationRule(d *yamldir.Document) (model.Object, error) {
	o := &networking.DestinationRule{}
	e, err := decodeSpec(d, &o.Spec)
	o.TypeMeta, o.ObjectMeta = e.TypeMeta, e.ObjectMeta
	return o, err
}

// place is where a document stands.
func place(d *yamldir.Document) string { return fmt.Sprintf("%s:%d", d.File, d.Line) }

// Decode is what a file of that name and content would say, were it the only one
// of its directory: an event per object that the model reads. The errors are
// [*yamldir.Error]s, joined.
func Decode(name string, content []byte) ([]model.Event, error) {
	docs, err := yamldir.Parse(name, content)
	if err != nil {
		return nil, err
	}
	objects, err := decodeFile(&yamldir.File{Path: name, Documents: docs})
	if err != nil {
		return nil, err
	}
	var events []model.Event
	for _, o := range objects {
		events = append(events, model.Event{Key: o.key, Object: o.object})
	}
	return events, nil
}
