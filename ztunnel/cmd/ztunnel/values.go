package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// text returns the variable name, or def when it is not set or empty.
func (r *reader) text(name, def string) string {
	v := r.env[name]
	if v == "" {
		v = def
	}
	if v != "" {
		r.seen[name] = v
	}
	return v
}

// oneOf reads a word out of allowed; the first one is the default.
func (r *reader) oneOf(name string, allowed ...string) string {
	v := r.text(name, allowed[0])
	for _, a := range allowed {
		if strings.EqualFold(v, a) {
			return a
		}
	}
	r.errs = append(r.errs, fmt.Errorf("%s is %q, want one of %s", name, v, strings.Join(allowed, ", ")))
	return allowed[0]
}

// onOff reads a switch of ours, which says on or off.
func (r *reader) onOff(name string, def bool) bool {
	words := []string{"on", "off"}
	if !def {
		words = []string{"off", "on"}
	}
	return r.oneOf(name, words...) == "on"
}

// boolean reads true or false, as strconv.ParseBool does.
func (r *reader) boolean(name string, def bool) bool {
	v, err := strconv.ParseBool(r.text(name, strconv.FormatBool(def)))
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s is %q, want true or false", name, r.env[name]))
		return def
	}
	return v
}

// integer reads a number from least to most.
func (r *reader) integer(name string, def, least, most int64) int64 {
	v, err := strconv.ParseInt(r.text(name, strconv.FormatInt(def, 10)), 10, 64)
	if err != nil || (v != def && (v < least || v > most)) {
		r.errs = append(r.errs, fmt.Errorf("%s is %q, want a number from %d to %d", name, r.env[name], least, most))
		return def
	}
	return v
}

// duration reads a positive time such as 300s or 24h. Zero as def means that
// nothing need be set.
func (r *reader) duration(name string, def time.Duration) time.Duration {
	text := r.env[name]
	if text == "" {
		if def != 0 {
			r.seen[name] = def.String()
		}
		return def
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		r.errs = append(r.errs, fmt.Errorf("%s is %q, want a time such as 300s", name, text))
		return def
	}
	r.seen[name] = d.String()
	return d
}

// threads reads how many threads may run Go code at once.
//
// ZTUNNEL_WORKER_THREADS is a number, a percentage of the cores, or 0 for all
// of them; then comes the concurrency of ProxyConfig. With neither it is a
// quarter of the cores, at least two and at least the CPU request, at most the
// CPU limit, and at most what the cgroup lets us use.
func (r *reader) threads(pc proxyConfig) int {
	cores := r.cores
	if limit := r.cpu("ZTUNNEL_CPU_LIMIT"); limit > 0 {
		cores = limit
	}
	request, limit := r.cpu("ZTUNNEL_RESOURCE_CPU_REQUEST"), r.cpu("ZTUNNEL_RESOURCE_CPU_LIMIT")
	if text := r.text("ZTUNNEL_WORKER_THREADS", ""); text != "" {
		n, err := workerThreads(text, cores)
		if err != nil {
			r.errs = append(r.errs, fmt.Errorf("ZTUNNEL_WORKER_THREADS: %w", err))
		}
		return n
	}
	if pc.Concurrency != nil {
		if *pc.Concurrency == 0 {
			return max(cores, 1)
		}
		return max(*pc.Concurrency, 1)
	}
	n := max(2, int(math.Ceil(float64(cores)/4)), request)
	for _, most := range []int{limit, r.quota} {
		if most > 0 {
			n = min(n, most)
		}
	}
	return max(n, 1)
}

// workerThreads reads n, n% or 0 against the number of cores.
func workerThreads(text string, cores int) (int, error) {
	cores = max(cores, 1)
	if percent, ok := strings.CutSuffix(text, "%"); ok {
		p, err := strconv.ParseFloat(percent, 64)
		if err != nil || !(p > 0 && p <= 100) {
			return cores, fmt.Errorf("%q: want a percentage over 0, at most 100", text)
		}
		return max(1, int(math.Round(p*float64(cores)/100))), nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return cores, fmt.Errorf("%q: want a number, a percentage or 0", text)
	}
	if n == 0 {
		return cores, nil
	}
	return n, nil
}

// cpu reads a number of cores in the notation of Kubernetes (2, 1500m),
// rounded up. Zero means not set.
func (r *reader) cpu(name string) int {
	text := r.text(name, "")
	if text == "" {
		return 0
	}
	number, unit := text, 1.0
	if milli, ok := strings.CutSuffix(text, "m"); ok {
		number, unit = milli, 1000
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v >= 0) || v > 1<<20 {
		r.errs = append(r.errs, fmt.Errorf("%s is %q, want cores such as 2 or 500m", name, text))
		return 0
	}
	return int(math.Ceil(v / unit))
}
