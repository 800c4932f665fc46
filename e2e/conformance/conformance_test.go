package conformance

import (
	"os"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// TestConformance runs the profiles of meshes with every extended feature. The
// cluster is that of KUBECONFIG, the version that of AMBIT_VERSION, and the report
// goes to CONFORMANCE_REPORT.
func TestConformance(t *testing.T) {
	o := conformance.DefaultOptions(t)
	o.ConformanceProfiles = []suite.ConformanceProfileName{suite.MeshHTTPConformanceProfileName, suite.MeshGRPCConformanceProfileName}
	o.SupportedFeatures = append(o.SupportedFeatures, features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures).UnsortedList()...)
	o.SupportedFeatures = append(o.SupportedFeatures,
		features.SupportHTTPRoute, features.SupportGRPCRoute, features.SupportReferenceGrant,
		// What tests of the profiles ask for beside the features of meshes.
		features.SupportHTTPRouteResponseHeaderModification, features.SupportHTTPRouteParentRefPort,
		features.SupportHTTPRoute303RedirectStatusCode, features.SupportHTTPRoute307RedirectStatusCode, features.SupportHTTPRoute308RedirectStatusCode,
	)
	o.NamespaceLabels = map[string]string{"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"}
	o.Implementation = confv1.Implementation{
		Organization: "ambit-mesh", Project: "ambit", URL: "https://github.com/ambit-mesh/ambit",
		Version: os.Getenv("AMBIT_VERSION"), Contact: []string{"https://github.com/ambit-mesh/ambit/issues"},
	}
	o.ReportOutputPath = os.Getenv("CONFORMANCE_REPORT")
	o.CleanupBaseResources = false
	conformance.RunConformanceWithOptions(t, o)
}
