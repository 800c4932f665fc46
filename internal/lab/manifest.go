package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

const (
	dataplaneLabel        = "istio.io/dataplane-mode"
	redirectionAnnotation = "ambient.istio.io/redirection"
)

// Manifests is the directory that istiod-lite and the agents watch. Each change
// is one rename, so that no reader sees half a file.
type Manifests struct {
	Dir string
}

var manifestName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`)

// Apply writes a file of YAML documents, in place of what the file held.
func (m Manifests) Apply(name string, docs ...any) error {
	path, err := m.path(name)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for i, doc := range docs {
		if i > 0 {
			out.WriteString("---\n")
		}
		raw, err := marshalDoc(doc)
		if err != nil {
			return fmt.Errorf("manifest %s: %w", name, err)
		}
		out.Write(raw)
	}
	return writeAtomic(path, out.Bytes(), 0o644)
}

// Delete removes a file; one that is not there is no error.
func (m Manifests) Delete(name string) error {
	path, err := m.path(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (m Manifests) path(name string) (string, error) {
	if !manifestName.MatchString(name) {
		return "", fmt.Errorf("manifest name %q: want lower case letters, digits, '.' and '-'", name)
	}
	return filepath.Join(m.Dir, name+".yaml"), nil
}

// marshalDoc writes one document; text is taken as YAML that a person wrote.
func marshalDoc(doc any) ([]byte, error) {
	if text, ok := doc.(string); ok {
		var probe map[string]any
		if err := yaml.Unmarshal([]byte(text), &probe); err != nil {
			return nil, err
		}
		if len(text) == 0 || text[len(text)-1] != '\n' {
			text += "\n"
		}
		return []byte(text), nil
	}
	return yaml.Marshal(doc)
}

// namespaceManifest is a Namespace, with its pods in the mesh or not.
func namespaceManifest(name string, mesh bool) *corev1.Namespace {
	ns := &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/metadata.name": name}},
	}
	if mesh {
		ns.Labels[dataplaneLabel] = "ambient"
	}
	return ns
}

func serviceAccountManifest(namespace, name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
	}
}

// serviceManifest is a ClusterIP service over the pods with label app.
func serviceManifest(s *Service) *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeClusterIP,
			ClusterIP:  s.Address.String(),
			ClusterIPs: []string{s.Address.String()},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Selector:   map[string]string{"app": s.App},
			Ports: []corev1.ServicePort{{
				Name: "http", Protocol: corev1.ProtocolTCP, Port: ServicePort, TargetPort: intstr.FromInt32(HTTPPort),
			}},
		},
	}
}

// manifest is the Pod as the API server would hold it now.
func (p *Pod) manifest(node *Node) *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace:         p.Namespace,
			Name:              p.Name,
			UID:               types.UID(p.UID),
			CreationTimestamp: metav1.NewTime(p.created),
			Labels:            map[string]string{"app": p.App},
		},
		Spec: corev1.PodSpec{
			NodeName:           node.Name,
			ServiceAccountName: p.ServiceAccount,
			Containers: []corev1.Container{{
				Name:  "app",
				Image: "labapp",
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: HTTPPort, Protocol: corev1.ProtocolTCP}},
			}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, HostIP: node.Address.String()},
	}
	if p.meshLabel != "" {
		pod.Labels[dataplaneLabel] = p.meshLabel
	}
	maps.Copy(pod.Labels, p.labels)
	if p.annotated {
		pod.Annotations = map[string]string{redirectionAnnotation: "enabled"}
	}
	if p.Address.IsValid() {
		pod.Status.Phase = corev1.PodRunning
		pod.Status.PodIP = p.Address.String()
		pod.Status.PodIPs = []corev1.PodIP{{IP: p.Address.String()}}
		pod.Status.StartTime = &metav1.Time{Time: p.created}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: conditionStatus(p.ready)}}
	}
	return pod
}

func conditionStatus(ok bool) corev1.ConditionStatus {
	if ok {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

// nodeManifest is the Node object of a node.
func nodeManifest(n *Node) *corev1.Node {
	return &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{
			Name:              n.Name,
			CreationTimestamp: metav1.NewTime(time.Unix(0, 0)),
		},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.Address.String()}}},
	}
}
