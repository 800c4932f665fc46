package conformance

import (
	"os"
	"slices"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

// TestConformance runs the profiles of meshes with every extended feature, and fails
// when a test of meshes was not run. The cluster is that of KUBECONFIG, the version
// that of AMBIT_VERSION, and the report goes to CONFORMANCE_REPORT.
func TestConformance(t *testing.T) {
	o := conformance.DefaultOptions(t)
	o.ConformanceProfiles = []suite.ConformanceProfileName{suite.MeshHTTPConformanceProfileName, suite.MeshGRPCConformanceProfileName}
	o.SupportedFeatures = append(o.SupportedFeatures, features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures).UnsortedList()...)
	o.SupportedFeatures = append(o.SupportedFeatures,
		features.SupportHTTPRoute, features.SupportGRPCRoute,
		// What tests of meshes ask for beside the features of meshes.
		features.SupportHTTPRouteResponseHeaderModification, features.SupportHTTPRouteParentRefPort,
		features.SupportHTTPRoute303RedirectStatusCode, features.SupportHTTPRoute307RedirectStatusCode, features.SupportHTTPRoute308RedirectStatusCode,
	)
	for _, test := range tests.ConformanceTests {
		if !slices.Contains(test.Features, features.SupportMesh) {
			continue
		}
		for _, f := range test.Features {
			if !slices.Contains(o.SupportedFeatures, f) {
				t.Errorf("%s would be skipped: it wants feature %s, which is not claimed", test.ShortName, f)
			}
		}
	}
	o.NamespaceLabels = map[string]string{"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"}
	o.Implementation = confv1.Implementation{
		Organization: "ambit-mesh", Project: "ambit", URL: "https://github.com/ambit-mesh/ambit",
		Version: os.Getenv("AMBIT_VERSION"), Contact: []string{"https://github.com/ambit-mesh/ambit/issues"},
	}
	o.ReportOutputPath = os.Getenv("CONFORMANCE_REPORT")
	o.CleanupBaseResources = false
	conformance.RunConformanceWithOptions(t, o)
	if o.ReportOutputPath != "" {
		whole(t, o.ReportOutputPath)
	}
}

// whole fails when the report of a run says that something failed, was skipped or is
// not supported.
func whole(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report confv1.ConformanceReport
	if err := yaml.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	if len(report.ProfileReports) != 2 {
		t.Errorf("%d profiles in the report, want 2", len(report.ProfileReports))
	}
	for _, p := range report.ProfileReports {
		parts := []confv1.Status{p.Core}
		if p.Extended != nil { // MESH-GRPC has no extended test
			parts = append(parts, p.Extended.Status)
			if len(p.Extended.UnsupportedFeatures) > 0 {
				t.Errorf("profile %s: not supported: %v", p.Name, p.Extended.UnsupportedFeatures)
			}
		}
		for _, s := range parts {
			if s.Result != confv1.Success || s.Failed != 0 || s.Skipped != 0 || s.Passed == 0 {
				t.Errorf("profile %s: %s, %d passed, %d failed, %d skipped", p.Name, s.Result, s.Passed, s.Failed, s.Skipped)
			}
		}
	}
}
