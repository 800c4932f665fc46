package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/ambit-mesh/ambit/manifests"
)

// Names that hold on every cluster.
const (
	releaseName = "ambit" // what templates see as the release
	notesFile   = "NOTES.txt"

	// PartOfLabel is on every object of ours.
	PartOfLabel = "app.kubernetes.io/part-of"
	// PartOf is its value.
	PartOf = "ambit"
)

// Options say what to install.
type Options struct {
	Version     string         // of the chart and, unless a value says otherwise, of the images
	Namespace   string         // of the installation
	Values      map[string]any // over the chart's own
	KubeVersion string         // of the cluster; empty means that nobody asks
	IsUpgrade   bool
}

// Rendered is what the chart makes of Options.
type Rendered struct {
	Objects []*unstructured.Unstructured // in the order in which they are applied
	Notes   string                       // for people
}

// Render makes the objects of the chart. It speaks to no cluster.
func Render(o Options) (*Rendered, error) {
	files, err := o.files("ambit")
	if err != nil {
		return nil, err
	}
	out := &Rendered{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		switch base := path.Base(name); {
		case base == notesFile:
			out.Notes = files[name]
		case strings.HasPrefix(base, "_"):
		default:
			objects, err := ParseObjects([]byte(files[name]))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			out.Objects = append(out.Objects, objects...)
		}
	}
	slices.SortStableFunc(out.Objects, func(a, b *unstructured.Unstructured) int { return rank(a.GetKind()) - rank(b.GetKind()) })
	return out, nil
}

// files is the chart's templates rendered, by name. service is who installs: it
// becomes the label app.kubernetes.io/managed-by, and what only Helm needs is there
// for it alone.
func (o Options) files(service string) (map[string]string, error) {
	c, err := loadChart(o.Version)
	if err != nil {
		return nil, err
	}
	if err := checkKubeVersion(c.Metadata.KubeVersion, o.KubeVersion); err != nil {
		return nil, err
	}
	release := common.ReleaseOptions{Name: releaseName, Namespace: o.Namespace, Revision: 1, IsInstall: !o.IsUpgrade, IsUpgrade: o.IsUpgrade}
	values, err := util.ToRenderValues(c, o.Values, release, common.DefaultCapabilities.Copy())
	if err != nil {
		return nil, fmt.Errorf("values (all that can be set: ambit install --show-values): %w", err)
	}
	if r, ok := values["Release"].(map[string]any); ok {
		r["Service"] = service
	}
	files, err := engine.Render(c, values)
	if err != nil {
		return nil, fmt.Errorf("render the chart: %w", err)
	}
	return files, nil
}

// Values returns the chart's values as people read them, comments included.
func Values() ([]byte, error) {
	files, err := manifests.Chart("")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if f.Name == "values.yaml" {
			return f.Data, nil
		}
	}
	return nil, errors.New("the chart has no values.yaml")
}

// ParseObjects reads the objects of a file of YAML documents. Documents without
// content are left out.
func ParseObjects(text []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := d.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(object.Object) == 0 {
			continue
		}
		if object.GetKind() == "" || object.GetAPIVersion() == "" || object.GetName() == "" {
			return nil, fmt.Errorf("an object of kind %q, version %q and name %q: all three are needed", object.GetKind(), object.GetAPIVersion(), object.GetName())
		}
		objects = append(objects, object)
	}
}

// order is that in which kinds are applied: what others need comes first. They
// are removed the other way round. Kinds that are not named come last.
var order = [...]string{
	"Namespace", "CustomResourceDefinition", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "NetworkPolicy",
	"ServiceAccount", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service", "PodDisruptionBudget", "Deployment", "DaemonSet",
}

// rank is the place of kind in order.
func rank(kind string) int {
	if i := slices.Index(order[:], kind); i >= 0 {
		return i
	}
	return len(order)
}

// loadChart loads the embedded chart as the release called version.
func loadChart(version string) (*chart.Chart, error) {
	files, err := manifests.Chart(version)
	if err != nil {
		return nil, err
	}
	var buffered []*archive.BufferedFile
	for _, f := range files {
		buffered = append(buffered, &archive.BufferedFile{Name: f.Name, Data: f.Data})
	}
	c, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, fmt.Errorf("embedded chart: %w", err)
	}
	return c, nil
}

// checkKubeVersion checks that a cluster's version is one that the chart is for.
func checkKubeVersion(wanted, have string) error {
	if have == "" {
		return nil
	}
	constraint, err := semver.NewConstraint(wanted)
	if err != nil {
		return fmt.Errorf("embedded chart: kubeVersion %q: %w", wanted, err)
	}
	version, err := semver.NewVersion(have)
	if err != nil {
		return fmt.Errorf("version of the cluster %q: %w", have, err)
	}
	if !constraint.Check(version) {
		return fmt.Errorf("the cluster runs Kubernetes %s, ambit needs %s", have, strings.TrimSuffix(wanted, "-0"))
	}
	return nil
}
