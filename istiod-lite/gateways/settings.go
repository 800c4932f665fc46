package gateways

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// Annotations of a Gateway that say how its waypoint is made.
const (
	ReplicasAnnotation    = "ambit.dev/waypoint-replicas"
	MaxReplicasAnnotation = "ambit.dev/waypoint-max-replicas"
	DrainAnnotation       = "ambit.dev/waypoint-drain"
	LogLevelAnnotation    = "ambit.dev/waypoint-log-level"
)

// Limits on what annotations can say. Our choice.
const (
	maxReplicas = 1000
	maxDrain    = time.Hour
)

// Settings are what waypoints are made with. The zero Settings, with Image set, are
// ready for use.
type Settings struct {
	// Image of the program.
	Image string `json:"image"`
	// PullPolicy and PullSecrets are how it is fetched. The Secrets are of the
	// namespace of each waypoint.
	PullPolicy  corev1.PullPolicy `json:"pullPolicy,omitempty"`
	PullSecrets []string          `json:"pullSecrets,omitempty"`
	// Replicas is how many instances there are at least, MaxReplicas at most. Zero
	// means 2 and 10. When they are equal there is no autoscaler.
	Replicas    int32 `json:"replicas,omitempty"`
	MaxReplicas int32 `json:"maxReplicas,omitempty"`
	// CPUUtilization is the share of the requested CPU, in percent, at which instances
	// are added. Zero means 80.
	CPUUtilization int32 `json:"cpuUtilization,omitempty"`
	// DrainSeconds is how long requests may go on when an instance ends. Zero means
	// 30.
	DrainSeconds int32 `json:"drainSeconds,omitempty"`
	// Resources of each instance. Without requests: 100m CPU and 64Mi memory.
	Resources corev1.ResourceRequirements `json:"resources,omitzero"`
	// NodeSelector and Tolerations say where instances may run.
	NodeSelector map[string]string   `json:"nodeSelector,omitempty"`
	Tolerations  []corev1.Toleration `json:"tolerations,omitempty"`
	// Env are further environment variables.
	Env map[string]string `json:"env,omitempty"`
	// LogLevel and LogFormat are those of the program. Empty means info and json.
	LogLevel  string `json:"logLevel,omitempty"`
	LogFormat string `json:"logFormat,omitempty"`
}

// ParseSettings reads the settings of an installation: JSON. Fields that it does not
// know are an error, so that a mistake is not silent.
func ParseSettings(text string) (Settings, error) {
	var s Settings
	d := json.NewDecoder(newReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Settings{}, fmt.Errorf("waypoint settings: %w", err)
	}
	return s.withDefaults()
}

// withDefaults returns the settings in force.
func (s Settings) withDefaults() (Settings, error) {
	s.PullPolicy = cmp.Or(s.PullPolicy, corev1.PullIfNotPresent)
	s.Replicas = cmp.Or(s.Replicas, 2)
	s.MaxReplicas = cmp.Or(s.MaxReplicas, max(10, s.Replicas))
	s.CPUUtilization = cmp.Or(s.CPUUtilization, 80)
	s.DrainSeconds = cmp.Or(s.DrainSeconds, 30)
	s.LogLevel = cmp.Or(s.LogLevel, "info")
	s.LogFormat = cmp.Or(s.LogFormat, "json")
	switch {
	case s.Image == "":
		return Settings{}, fmt.Errorf("waypoint settings: image: missing")
	case s.Replicas < 1 || s.Replicas > maxReplicas:
		return Settings{}, fmt.Errorf("replicas: %d, want 1 to %d", s.Replicas, maxReplicas)
	case s.MaxReplicas < s.Replicas || s.MaxReplicas > maxReplicas:
		return Settings{}, fmt.Errorf("replicas: at most %d, want %d (the least) to %d", s.MaxReplicas, s.Replicas, maxReplicas)
	case s.DrainSeconds < 1 || time.Duration(s.DrainSeconds)*time.Second > maxDrain:
		return Settings{}, fmt.Errorf("drain: %d s, want 1 to %.0f", s.DrainSeconds, maxDrain.Seconds())
	}
	return s, nil
}

// of is the settings for one Gateway: what its annotations say, over s. The error
// names the annotation.
func (s Settings) of(g *gateway.Gateway) (Settings, error) {
	value := func(name string) (string, bool) {
		if g.Spec.Infrastructure != nil {
			if v, ok := g.Spec.Infrastructure.Annotations[gateway.AnnotationKey(name)]; ok {
				return string(v), true
			}
		}
		v, ok := g.Annotations[name]
		return v, ok
	}
	for name, into := range map[string]*int32{ReplicasAnnotation: &s.Replicas, MaxReplicasAnnotation: &s.MaxReplicas} {
		text, ok := value(name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 1 || n > maxReplicas {
			return Settings{}, fmt.Errorf("annotation %s: %q, want a number from 1 to %d", name, text, maxReplicas)
		}
		*into = int32(n)
	}
	if _, said := value(MaxReplicasAnnotation); !said {
		s.MaxReplicas = max(s.MaxReplicas, s.Replicas)
	}
	if text, ok := value(DrainAnnotation); ok {
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Second || d > maxDrain {
			return Settings{}, fmt.Errorf("annotation %s: %q, want a time from 1s to %v", DrainAnnotation, text, maxDrain)
		}
		s.DrainSeconds = int32(d.Round(time.Second).Seconds())
	}
	if text, ok := value(LogLevelAnnotation); ok {
		s.LogLevel = text
	}
	return s.withDefaults()
}
