package check

import (
	"errors"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/ambit-mesh/ambit/ambit/internal/kube"
)

// gauges reads the values of metrics whose names begin with prefix, the sum over
// their labels, from the Prometheus text format. What cannot be read is left out.
func gauges(text, prefix string) map[string]float64 {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, _ := parser.TextToMetricFamilies(strings.NewReader(text))
	out := map[string]float64{}
	for name, family := range families {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		for _, m := range family.Metric {
			switch {
			case m.Gauge != nil:
				out[name] += m.Gauge.GetValue()
			case m.Counter != nil:
				out[name] += m.Counter.GetValue()
			}
		}
	}
	return out
}

// asStatus tells whether err is an answer other than 200.
func asStatus(err error, into **kube.StatusError) bool { return errors.As(err, into) }
