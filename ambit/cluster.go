package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
)

// defaultNamespace is where ambit is installed unless something else is said: the
// root namespace of users' policies.
const defaultNamespace = "istio-system"

// clusterFlags say which cluster and which installation in it.
type clusterFlags struct {
	kube      kube.Config
	namespace string
	json      bool
}

// add declares the flags at cmd.
func (f *clusterFlags) add(cmd *cobra.Command) {
	f.addCluster(cmd)
	cmd.Flags().StringVar(&f.namespace, "namespace", defaultNamespace, "`NAMESPACE` of the installation")
}

// addCluster declares those at cmd that say nothing of an installation.
func (f *clusterFlags) addCluster(cmd *cobra.Command) {
	p := cmd.Flags()
	p.StringVar(&f.kube.Kubeconfig, "kubeconfig", "", "`FILE` that says which cluster (default $KUBECONFIG, then ~/.kube/config)")
	p.StringVar(&f.kube.Context, "context", "", "`NAME` of the context in that file")
	p.BoolVar(&f.json, "json", false, "write JSON to the standard output, and progress to the standard error")
}

// connect makes the client and checks that the cluster answers.
func (f *clusterFlags) connect() (client *kube.Client, version string, err error) {
	if client, err = kube.Connect(f.kube); err != nil {
		return nil, "", err
	}
	version, err = client.Version()
	return client, version, err
}

// progress is where lines for people go.
func (f *clusterFlags) progress(cmd *cobra.Command) func(format string, args ...any) {
	w := cmd.OutOrStdout()
	if f.json {
		w = cmd.ErrOrStderr()
	}
	return func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
}

// writeJSON writes v, indented.
func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// valueFlags are values for the chart.
type valueFlags struct{ files, sets []string }

// add declares the flags at cmd.
func (f *valueFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.files, "values", "f", nil, "`FILE` of values for the chart; several times, later ones win")
	cmd.Flags().StringArrayVar(&f.sets, "set", nil, "`KEY=VALUE` for the chart, over all files; several times (ambit install --show-values lists them)")
}

// merge lays files and single values over base.
func (f *valueFlags) merge(base map[string]any) (map[string]any, error) {
	if base == nil {
		base = map[string]any{}
	}
	for _, file := range f.files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		values := map[string]any{}
		if err := yaml.UnmarshalStrict(text, &values); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		overlay(base, values)
	}
	for _, set := range f.sets {
		if err := strvals.ParseInto(set, base); err != nil {
			return nil, fmt.Errorf("--set %s: %w", set, err)
		}
	}
	return base, nil
}

// overlay lays from over into, maps within maps.
func overlay(into, from map[string]any) {
	for key, value := range from {
		below, isMap := into[key].(map[string]any)
		above, alsoMap := value.(map[string]any)
		if isMap && alsoMap {
			overlay(below, above)
		} else {
			into[key] = value
		}
	}
}

// failed turns an error of work that was under way into the exit code of such.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitFailed, err}
}
