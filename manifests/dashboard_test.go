package manifests

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/telemetry"
	istiodlite "github.com/ambit-mesh/ambit/istiod-lite"
	"github.com/ambit-mesh/ambit/waypoint/report"
)

// metricName is the name of a metric of ours in an expression.
var metricName = regexp.MustCompile(`\b(?:istio|ambit|workload_manager|process|go|citadel)_[a-z0-9_]+`)

// Each metric that the dashboard asks for is one that a program of ours exports.
func TestDashboardAsksForWhatThereIs(t *testing.T) {
	raw, err := os.ReadFile("dashboards/mesh.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	have := exported(t)
	asked := 0
	for _, p := range board.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			names := metricName.FindAllString(target.Expr, -1)
			if len(names) == 0 {
				t.Errorf("panel %q: no metric in %s", p.Title, target.Expr)
			}
			for _, name := range names {
				asked++
				if !have[name] && !have[strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")] {
					t.Errorf("panel %q: nobody exports %s", p.Title, name)
				}
			}
		}
	}
	if asked < len(board.Panels) {
		t.Errorf("%d metrics in %d panels", asked, len(board.Panels))
	}
}

// exported are the names of the metrics of ztunnel, waypoint and istiod-lite.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	var all []*prometheus.Registry
	program := func(name string, register ...func(reg *prometheus.Registry) error) {
		reg, err := telemetry.NewRegistry(name, "test")
		if err != nil {
			t.Fatal(err)
		}
		for _, fn := range register {
			if err := fn(reg); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, reg)
	}
	program("ztunnel",
		func(reg *prometheus.Registry) error {
			_, err := telemetry.NewRecords(telemetry.Config{}, telemetry.Deps{Log: zap.NewNop(), Registry: reg})
			return err
		},
		func(reg *prometheus.Registry) error { _, err := telemetry.NewPodMetrics(reg); return err },
		func(reg *prometheus.Registry) error { _, err := telemetry.NewProxyMetrics(reg); return err },
		func(reg *prometheus.Registry) error { _, err := telemetry.NewXDSMetrics(reg); return err })
	program("waypoint", func(reg *prometheus.Registry) error { _, err := report.New(zap.NewNop(), reg, nil); return err })
	program("istiod-lite", func(reg *prometheus.Registry) error {
		tokens := t.TempDir() + "/tokens"
		if err := os.WriteFile(tokens, []byte("secret-of-a-node node-1\n"), 0o600); err != nil {
			return err
		}
		_, err := istiodlite.New(istiodlite.Config{ConfigDir: t.TempDir(), CADir: t.TempDir() + "/ca", NodeTokens: tokens}, istiodlite.Deps{Log: zap.NewNop(), Metrics: reg})
		return err
	})
	names := map[string]bool{}
	fqName := regexp.MustCompile(`fqName: "([^"]+)"`)
	for _, reg := range all {
		descs := make(chan *prometheus.Desc)
		go func() { reg.Describe(descs); close(descs) }()
		for d := range descs {
			names[fqName.FindStringSubmatch(d.String())[1]] = true
		}
	}
	return names
}
