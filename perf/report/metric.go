package report

// Metric names what a value is.
type Metric string

// The metrics. Their meaning stands in the table below.
const (
	Throughput    Metric = "throughput"
	CPUPerGB      Metric = "cpu-per-gb"
	HostPerGB     Metric = "host-cpu-per-gb"
	Requests      Metric = "requests"
	CPUPer1000    Metric = "cpu-per-1000"
	HostPer1000   Metric = "host-cpu-per-1000"
	Switches      Metric = "switches-per-request"
	Connections   Metric = "connections"
	P50           Metric = "p50"
	P90           Metric = "p90"
	P99           Metric = "p99"
	P999          Metric = "p99.9"
	Max           Metric = "max"
	AddedP50      Metric = "added-p50"
	AddedP99      Metric = "added-p99"
	LateP99       Metric = "generator-late-p99"
	IdleMemory    Metric = "idle-memory"
	PerConnection Metric = "memory-per-connection"
	IdleCPU       Metric = "idle-cpu"
)

// about is what a reader must know of a metric.
type about struct {
	order  int
	title  string
	unit   string
	higher bool    // more is better
	scale  float64 // of the stored value for printing
	// percentile is that of the latency histograms that it is made from; zero
	// means that the value stands in the samples.
	percentile float64
	// over names the metric of which it is what the mesh adds to None.
	over Metric
	// informs says that it is neither good nor bad.
	informs bool
}

// metrics tells about each metric. Processor time "of the proxies" is that of
// all ztunnels on the way; "of the machine" is that of all that runs, the
// generators and the kernel's interrupts included.
var metrics = map[Metric]about{
	Throughput:    {order: 1, title: "throughput", unit: "Gbit/s", higher: true, scale: 1},
	CPUPerGB:      {order: 2, title: "CPU of the proxies", unit: "s/GB", scale: 1},
	HostPerGB:     {order: 3, title: "CPU of the machine", unit: "s/GB", scale: 1},
	Requests:      {order: 4, title: "requests", unit: "1/s", higher: true, scale: 1},
	Connections:   {order: 5, title: "new connections", unit: "1/s", higher: true, scale: 1},
	P50:           {order: 6, title: "p50", unit: "us", scale: 1e-3, percentile: 50},
	P90:           {order: 7, title: "p90", unit: "us", scale: 1e-3, percentile: 90},
	P99:           {order: 8, title: "p99", unit: "us", scale: 1e-3, percentile: 99},
	P999:          {order: 9, title: "p99.9", unit: "us", scale: 1e-3, percentile: 99.9},
	Max:           {order: 10, title: "max", unit: "us", scale: 1e-3, percentile: 100, informs: true},
	AddedP50:      {order: 11, title: "added p50", unit: "us", scale: 1e-3, over: P50},
	AddedP99:      {order: 12, title: "added p99", unit: "us", scale: 1e-3, over: P99},
	CPUPer1000:    {order: 13, title: "CPU of the proxies", unit: "ms/1000", scale: 1e3},
	HostPer1000:   {order: 14, title: "CPU of the machine", unit: "ms/1000", scale: 1e3},
	Switches:      {order: 15, title: "context switches of the proxies", unit: "1/request", scale: 1},
	LateP99:       {order: 16, title: "the generator sent late, p99", unit: "us", scale: 1e-3, percentile: 99, informs: true},
	IdleMemory:    {order: 17, title: "memory of the proxies, idle", unit: "MB", scale: 1e-6},
	PerConnection: {order: 18, title: "memory of the proxies, per idle connection", unit: "KB", scale: 1e-3},
	IdleCPU:       {order: 19, title: "CPU of one proxy, idle", unit: "% of a core", scale: 100},
}
