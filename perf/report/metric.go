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
	WithClients   Metric = "memory-with-clients"
	IdleCPU       Metric = "idle-cpu"

	AddedHostPerGB   Metric = "added-host-cpu-per-gb"
	AddedHostPer1000 Metric = "added-host-cpu-per-1000"
	AfterLoad        Metric = "memory-after-load"
	AfterLoadShare   Metric = "memory-after-load-over-idle"
	ColdP50          Metric = "cold-p50"
	ColdSlow         Metric = "cold-slow"
	AddP50           Metric = "cni-add-p50"
	AddSlow          Metric = "cni-add-slow"
	AddedAddP50      Metric = "added-cni-add-p50"
	AddedAddSlow     Metric = "added-cni-add-slow"
	FirstByteP50     Metric = "first-byte-p50"
	FirstByteSlow    Metric = "first-byte-slow"
	ColdSync         Metric = "cold-sync"
	ChangeP50        Metric = "change-p50"
	ChangeSlow       Metric = "change-slow"
	IstiodMemory     Metric = "istiod-memory"
	ZtunnelMemory    Metric = "ztunnel-memory"
)

// Series names raw values of a sample, in seconds, of what happens too seldom for a
// histogram.
type Series string

// The series.
const (
	SeriesCold      Series = "cold"       // first exchange when no tunnel stands
	SeriesAdd       Series = "cni-add"    // CNI ADD
	SeriesFirstByte Series = "first-byte" // of a new pod, from the end of ADD
	SeriesChange    Series = "change"     // from a changed file to what it does
)

// slow is the rank of the slowest but one in a hundred: for 200 values a fact about
// them, and no estimate of a percentile.
const slow = 0.99

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
	// series and rank say that it is the value of that rank of the series.
	series Series
	rank   float64
	// over names the metric of which it is what the mesh adds to None.
	over Metric
	// informs says that it is neither good nor bad.
	informs bool
}

// metrics tells about each metric. Processor time "of the proxies" is that of
// all ztunnels on the way; "of the machine" is that of all that runs, the
// generators and the kernel's interrupts included.
var metrics = map[Metric]about{
	Throughput:    {order: 10, title: "throughput", unit: "Gbit/s", higher: true, scale: 1},
	CPUPerGB:      {order: 20, title: "CPU of the proxies", unit: "s/GB", scale: 1},
	HostPerGB:     {order: 30, title: "CPU of the machine", unit: "s/GB", scale: 1},
	Requests:      {order: 40, title: "requests", unit: "1/s", higher: true, scale: 1},
	Connections:   {order: 50, title: "new connections", unit: "1/s", higher: true, scale: 1},
	P50:           {order: 60, title: "p50", unit: "us", scale: 1e-3, percentile: 50},
	P90:           {order: 70, title: "p90", unit: "us", scale: 1e-3, percentile: 90},
	P99:           {order: 80, title: "p99", unit: "us", scale: 1e-3, percentile: 99},
	P999:          {order: 90, title: "p99.9", unit: "us", scale: 1e-3, percentile: 99.9},
	Max:           {order: 100, title: "max", unit: "us", scale: 1e-3, percentile: 100, informs: true},
	AddedP50:      {order: 110, title: "added p50", unit: "us", scale: 1e-3, over: P50},
	AddedP99:      {order: 120, title: "added p99", unit: "us", scale: 1e-3, over: P99},
	CPUPer1000:    {order: 130, title: "CPU of the proxies", unit: "ms/1000", scale: 1e3},
	HostPer1000:   {order: 140, title: "CPU of the machine", unit: "ms/1000", scale: 1e3},
	Switches:      {order: 150, title: "context switches of the proxies", unit: "1/request", scale: 1},
	LateP99:       {order: 160, title: "the generator sent late, p99", unit: "us", scale: 1e-3, percentile: 99, informs: true},
	IdleMemory:    {order: 170, title: "memory of the proxies, idle", unit: "MB", scale: 1e-6},
	PerConnection: {order: 180, title: "memory of the proxies, per idle connection", unit: "KB", scale: 1e-3},
	WithClients:   {order: 175, title: "memory of the proxies, with idle connections", unit: "MB", scale: 1e-6},
	IdleCPU:       {order: 190, title: "CPU of one proxy, idle", unit: "% of a core", scale: 100},

	AddedHostPerGB:   {order: 35, title: "CPU of the machine, added", unit: "s/GB", scale: 1, over: HostPerGB},
	AddedHostPer1000: {order: 145, title: "CPU of the machine, added", unit: "ms/1000", scale: 1e3, over: HostPer1000},
	AfterLoad:        {order: 200, title: "memory of the proxies, after load", unit: "MB", scale: 1e-6},
	AfterLoadShare:   {order: 210, title: "memory of the proxies, after load over idle", unit: "times", scale: 1},
	ColdP50:          {order: 220, title: "first exchange, median", unit: "ms", scale: 1e3, series: SeriesCold, rank: 0.5},
	ColdSlow:         {order: 230, title: "first exchange, slowest but one in 100", unit: "ms", scale: 1e3, series: SeriesCold, rank: slow},
	AddP50:           {order: 240, title: "CNI ADD, median", unit: "ms", scale: 1e3, series: SeriesAdd, rank: 0.5},
	AddedAddP50:      {order: 250, title: "CNI ADD, median, added", unit: "ms", scale: 1e3, over: AddP50},
	AddSlow:          {order: 260, title: "CNI ADD, slowest but one in 100", unit: "ms", scale: 1e3, series: SeriesAdd, rank: slow},
	AddedAddSlow:     {order: 270, title: "CNI ADD, slowest but one in 100, added", unit: "ms", scale: 1e3, over: AddSlow},
	FirstByteP50:     {order: 280, title: "first byte, median", unit: "ms", scale: 1e3, series: SeriesFirstByte, rank: 0.5},
	FirstByteSlow:    {order: 290, title: "first byte, slowest but one in 100", unit: "ms", scale: 1e3, series: SeriesFirstByte, rank: slow},
	ColdSync:         {order: 300, title: "a ztunnel from start to ready", unit: "s", scale: 1},
	ChangeP50:        {order: 310, title: "a change takes effect, median", unit: "ms", scale: 1e3, series: SeriesChange, rank: 0.5},
	ChangeSlow:       {order: 320, title: "a change takes effect, slowest but one in 100", unit: "ms", scale: 1e3, series: SeriesChange, rank: slow},
	IstiodMemory:     {order: 330, title: "memory of the control plane", unit: "MB", scale: 1e-6},
	ZtunnelMemory:    {order: 340, title: "memory of one proxy", unit: "MB", scale: 1e-6},
}
