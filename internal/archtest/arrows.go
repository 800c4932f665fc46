package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// open are the packages that everybody may import.
var open = []string{"internal/meshapi/...", "internal/lifecycle", "internal/buildinfo"}

// arrows says what each package may import of ours besides open: the plan of
// the house. Its test files may import more.
var arrows = map[string][]string{
	// Level 0: libraries.
	"internal/meshapi":     nil,
	"internal/identity":    nil,
	"internal/h2":          nil,
	"internal/hbone":       {"internal/hbone/tls13"},
	"internal/hbone/tls13": nil,
	"internal/streamio":    nil,
	"internal/lifecycle":   nil,
	"internal/buildinfo":   nil,
	"internal/footprint":   nil,
	"internal/netns":       nil,
	"internal/grpcclient":  nil,
	"internal/tracing":     nil,
	"internal/yamldir":     nil,
	"internal/images":      nil,
	"internal/awake":       nil,

	// Level 1.
	"internal/policy":    {"internal/identity"},
	"internal/telemetry": {"internal/identity", "internal/streamio", "internal/tracing"},
	"internal/xds":       nil,
	"internal/caclient":  {"internal/identity"},
	"internal/zds":       {"internal/netns"},
	"internal/sockowner": {"internal/netns"},

	// Level 2.
	"internal/workload": {"internal/identity", "internal/policy"},
	"internal/about":    {"internal/workload", "internal/identity", "internal/hbone", "internal/telemetry", "internal/tracing"},

	"internal/program": {"internal/footprint", "internal/telemetry"},

	// For tests, and for showing the whole.
	"internal/memnet":          nil,
	"internal/archtest":        nil,
	"internal/netns/netnstest": {"internal/netns"},
	"internal/policy/oracle":   nil,
	"internal/lab":             {anything},
	"internal/lab/...":         {anything},
	"e2e/...":                  {anything},

	// Level 3: components. The root package of each is its assembly.
	"ztunnel": {
		"ztunnel/...", "internal/identity", "internal/caclient", "internal/grpcclient", "internal/hbone", "internal/netns",
		"internal/policy", "internal/sockowner", "internal/telemetry", "internal/tracing", "internal/workload", "internal/xds", "internal/zds",
	},
	"ztunnel/capture": {"internal/netns", "internal/workload"},
	"ztunnel/route":   {"internal/workload", "internal/identity", "internal/policy", "internal/hbone"},
	"ztunnel/outbound": {
		"internal/about", "ztunnel/capture", "ztunnel/route", "internal/identity", "internal/policy", "internal/workload",
		"internal/hbone", "internal/streamio", "internal/telemetry", "internal/tracing",
	},
	"ztunnel/inbound": {
		"internal/about", "ztunnel/capture", "ztunnel/route", "internal/identity", "internal/policy", "internal/workload",
		"internal/hbone", "internal/sockowner", "internal/streamio", "internal/telemetry",
	},
	"ztunnel/pods": {
		"ztunnel/capture", "ztunnel/dns", "ztunnel/outbound", "ztunnel/inbound", "internal/zds", "internal/netns", "internal/hbone",
		"internal/identity", "internal/policy", "internal/telemetry", "internal/workload",
	},
	"ztunnel/dns":   {"internal/workload", "internal/policy", "internal/telemetry"},
	"ztunnel/admin": {"internal/workload", "internal/telemetry", "internal/identity", "internal/policy"},

	"waypoint":          {"waypoint/...", "internal/..."},
	"waypoint/message":  nil,
	"waypoint/http1":    {"waypoint/message"},
	"waypoint/http2":    {"waypoint/message", "internal/h2"},
	"waypoint/entry":    {"waypoint/message", "waypoint/http1", "waypoint/http2", "internal/hbone", "internal/identity"},
	"waypoint/match":    {"waypoint/message"},
	"waypoint/jwt":      {"waypoint/message"},
	"waypoint/keys":     {"waypoint/jwt"},
	"waypoint/extauth":  {"waypoint/message"},
	"waypoint/filter":   {"waypoint/message", "waypoint/jwt", "waypoint/match", "internal/policy", "internal/identity"},
	"waypoint/config":   {"waypoint/message", "waypoint/jwt", "waypoint/match", "waypoint/filter", "internal/workload", "internal/policy"},
	"waypoint/report":   {"internal/telemetry", "internal/identity", "internal/tracing"},
	"waypoint/upstream": {"internal/policy", "internal/tracing", "waypoint/message", "waypoint/http1", "waypoint/http2", "waypoint/config", "internal/workload", "internal/identity", "internal/hbone"},

	"istiod-lite":              {"istiod-lite/...", "internal/identity", "internal/telemetry"},
	"istiod-lite/kube":         {"istiod-lite/model"},
	"istiod-lite/keeper":       {"istiod-lite/model", "istiod-lite/kube"},
	"istiod-lite/files":        {"istiod-lite/model", "internal/yamldir"},
	"istiod-lite/model":        {"internal/identity", "istiod-lite/model/routes"},
	"istiod-lite/model/routes": nil,
	"istiod-lite/discovery":    {"istiod-lite/model"},
	"istiod-lite/ca":           {"internal/identity"},
	"istiod-lite/gateways":     {"istiod-lite/model", "istiod-lite/kube"},
	"istiod-lite/status":       {"istiod-lite/model"},

	"cni":          {"cni/...", "internal/netns", "internal/sockowner", "internal/zds", "internal/yamldir", "internal/telemetry"},
	"cni/event":    nil,
	"cni/plugin":   {"cni/event"},
	"cni/agent":    {"cni/event", "cni/redirect", "internal/zds", "internal/netns", "internal/yamldir"},
	"cni/redirect": {"internal/netns"},
	"cni/install":  nil,
	"cni/kube":     {"cni/agent"},

	// Level 4: flags become a Config, and the assembly runs.
	"ztunnel/cmd/...":         {"internal/footprint", "ztunnel", "internal/awake", "internal/telemetry", "internal/tracing"},
	"waypoint/cmd/...":        {"internal/footprint", "waypoint", "internal/awake", "internal/program", "internal/tracing"},
	"istiod-lite/cmd/...":     {"istiod-lite", "internal/program"},
	"cni/cmd/...":             {"cni", "cni/...", "internal/program", "internal/zds", "internal/netns", "internal/yamldir"},
	"internal/images/cmd/...": {"internal/images"},
	"ambit":                   {anything},
	"ambit/...":               {anything},
	"manifests":               nil,
	"manifests/gencrds":       nil,
	"perf":                    {anything},
	"perf/...":                {anything},
}

// anything stands in arrows for all of ours.
const anything = "..."

// components are the parts that run as processes of their own. They meet on the
// wire only: each can be replaced by the part of another mesh.
var components = []string{"ztunnel", "waypoint", "istiod-lite", "cni"}

// outside says who may import packages that are not ours.
var outside = []struct {
	what string   // the package, or a tree with /...
	only []string // who may import it
	why  string
}{
	{
		what: "golang.org/x/sys/unix",
		only: []string{"internal/netns/...", "cni/redirect", "ztunnel/capture", "internal/zds", "internal/lab/...", "e2e/cluster/..."},
		why:  "system calls beyond the standard library stay in few places that are read with care",
	},
	{
		what: "k8s.io/client-go/...",
		only: []string{"istiod-lite/...", "cni/kube", "ambit/...", "internal/lab/...", "e2e/...", "perf/..."},
		why:  "the data plane gets its picture over xDS and must not weigh what a Kubernetes client weighs",
	},
	{
		what: "istio.io/client-go/...",
		only: []string{"istiod-lite/...", "ambit/...", "internal/lab/...", "e2e/...", "perf/..."},
		why:  "the data plane gets its picture over xDS",
	},
	{
		what: "go.uber.org/zap/...",
		only: []string{"internal/telemetry", "internal/program", "ztunnel/...", "waypoint/...", "istiod-lite/...", "cni/...", "ambit/...", "internal/lab/...", "perf/..."},
		why:  "libraries report through hooks; who runs them decides what is logged",
	},
	{
		what: "github.com/prometheus/...",
		only: []string{"internal/telemetry", "internal/program", "ztunnel/...", "waypoint/...", "istiod-lite/...", "cni/...", "ambit/...", "internal/lab/...", "perf/..."},
		why:  "libraries report through hooks; who runs them decides what is counted",
	},
}

// arrowsRule keeps imports of ours to the plan.
func arrowsRule(m *Module, say report) {
	m.product(func(p *Package, f *File) {
		allowed, known := allowedFor(p.Dir)
		if !known {
			say(f, f.AST.Package, fmt.Sprintf("%s has no row in arrows.go: say what it may import", p.Dir))
			return
		}
		for _, imp := range f.imports() {
			dir, ours := strings.CutPrefix(imp.path, m.Path+"/")
			if !ours || matches(open, dir) && p.Dir != "internal/hbone" || matches(allowed, dir) {
				continue
			}
			say(f, imp.pos, fmt.Sprintf("%s imports %s; it may import %s", p.Dir, dir, orNothing(allowed)))
		}
	})
}

// componentsRule keeps components apart, in tests as well.
func componentsRule(m *Module, say report) {
	for _, p := range m.Packages {
		own := componentOf(p.Dir)
		for _, f := range p.Files {
			for _, imp := range f.imports() {
				dir, ours := strings.CutPrefix(imp.path, m.Path+"/")
				if other := componentOf(dir); ours && own != "" && other != "" && other != own {
					say(f, imp.pos, fmt.Sprintf("%s imports %s", p.Dir, dir))
				}
			}
		}
	}
}

// controlPlaneRule keeps the control plane off the path of bytes.
func controlPlaneRule(m *Module, say report) {
	m.product(func(p *Package, f *File) {
		if componentOf(p.Dir) != "istiod-lite" {
			return
		}
		for _, imp := range f.imports() {
			dir, ours := strings.CutPrefix(imp.path, m.Path+"/")
			if ours && matches([]string{"internal/hbone", "internal/netns/...", "internal/streamio"}, dir) {
				say(f, imp.pos, fmt.Sprintf("%s imports %s", p.Dir, dir))
			}
		}
	})
}

// hboneRule keeps the tunnel transport a library.
func hboneRule(m *Module, say report) {
	m.product(func(p *Package, f *File) {
		if !strings.HasPrefix(p.Dir+"/", "internal/hbone/") {
			return
		}
		for _, imp := range f.imports() {
			first, _, _ := strings.Cut(imp.path, "/")
			own := p.Dir == "internal/hbone" && (imp.path == "golang.org/x/net/http2" || imp.path == "golang.org/x/net/http2/hpack" ||
				strings.HasSuffix(imp.path, "/internal/hbone/tls13"))
			if own || !strings.Contains(first, ".") {
				continue
			}
			say(f, imp.pos, fmt.Sprintf("it imports %s", imp.path))
		}
	})
}

// outsideRule keeps packages of others to where they belong.
func outsideRule(m *Module, say report) {
	m.product(func(p *Package, f *File) {
		for _, imp := range f.imports() {
			for _, o := range outside {
				if matches([]string{o.what}, imp.path) && !matches(o.only, p.Dir) {
					say(f, imp.pos, fmt.Sprintf("%s imports %s: %s", p.Dir, imp.path, o.why))
				}
			}
		}
	})
}

// allowedFor returns the row of dir: its own, or that of the closest tree.
func allowedFor(dir string) (allowed []string, known bool) {
	if allowed, known = arrows[dir]; known {
		return allowed, true
	}
	if matches(open, dir) {
		return nil, true
	}
	for tree := dir; tree != ""; {
		if allowed, known = arrows[tree+"/..."]; known {
			return allowed, true
		}
		tree = tree[:max(0, strings.LastIndexByte(tree, '/'))]
	}
	return nil, false
}

// matches tells whether dir is one of patterns, or below one that ends in /...
func matches(patterns []string, dir string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		tree, isTree := strings.CutSuffix(p, "/...")
		return p == anything || p == dir || isTree && (dir == tree || strings.HasPrefix(dir, tree+"/"))
	})
}

// componentOf returns the component that dir is part of, or "".
func componentOf(dir string) string {
	first, _, _ := strings.Cut(dir, "/")
	if slices.Contains(components, first) {
		return first
	}
	return ""
}

// orNothing lists names for people.
func orNothing(names []string) string {
	if len(names) == 0 {
		return "nothing of ours but " + strings.Join(open, " and ")
	}
	return strings.Join(names, ", ") + ", " + strings.Join(open, ", ")
}
