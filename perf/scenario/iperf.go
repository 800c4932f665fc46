package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ambit-mesh/ambit/internal/lab"
	"github.com/ambit-mesh/ambit/internal/lifecycle"
	"github.com/ambit-mesh/ambit/perf/report"
)

// iperfPort is where iperf3 serves in a pod: the port that it has by itself.
const iperfPort = 5201

// errNoIperf is why the cases of iperf3 are missing.
var errNoIperf = errors.New("it is not installed: apt-get install iperf3")

// iperf measures bulk with iperf3, which others know, beside our own generator,
// which can say at any moment how many bytes have arrived.
func iperf(streams int, plan report.Plan, in depth) scene {
	return scene{
		name: fmt.Sprintf("across/iperf3/%d", streams), title: fmt.Sprintf("The same by iperf3: bulk between %s, %s, up", across.title, plural(streams)),
		variants: acrossVariants, repetitions: fewer(plan), in: in, ceiling: report.Throughput, needs: lookIperf,
		take: func(ctx context.Context, s *site, rep int) (*report.Sample, error) {
			path, err := exec.LookPath("iperf3")
			if err != nil {
				return nil, errNoIperf
			}
			from, to := s.lab.Pod(across.from[0], across.from[1]), s.lab.Pod(across.to[0], across.to[1])
			server, err := s.lab.Run(ctx, to.Node, to.NetNS, "iperf3", path, "--server", "--port", strconv.Itoa(iperfPort))
			if err != nil {
				return nil, err
			}
			took, err := runIperf(ctx, path, from, to, streams, plan.Window)
			if err := errors.Join(err, server.Stop()); err != nil {
				return nil, err
			}
			return &report.Sample{Variant: s.variant, Repetition: rep, Values: map[report.Metric]float64{report.Throughput: took}}, nil
		},
	}
}

// lookIperf says whether iperf3 is there.
func lookIperf() error {
	if _, err := exec.LookPath("iperf3"); err != nil {
		return errNoIperf
	}
	return nil
}

// runIperf runs the client in a pod and returns Gbit/s as the server has seen them.
func runIperf(ctx context.Context, path string, from, to *lab.Pod, streams int, length time.Duration) (float64, error) {
	if err := waitListening(ctx, to.NetNS, iperfPort); err != nil {
		return 0, err
	}
	seconds := strconv.Itoa(max(1, int(length.Round(time.Second).Seconds())))
	cmd := exec.CommandContext(ctx, path, "--client", to.Address.String(), "--port", strconv.Itoa(iperfPort),
		"--parallel", strconv.Itoa(streams), "--time", seconds, "--json")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := from.NetNS.Do(cmd.Start); err != nil {
		return 0, err
	}
	runErr := cmd.Wait()
	gigabits, err := iperfResult(out.Bytes())
	return gigabits, errors.Join(err, runErr)
}

// waitListening waits until somebody listens on a port of a namespace. It does not
// connect: iperf3 takes whoever does for its client.
func waitListening(ctx context.Context, ns lab.Namespace, port uint16) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		found := false
		err := ns.Do(func() error {
			for _, family := range []uint8{syscall.AF_INET, syscall.AF_INET6} {
				socks, err := netlink.SocketDiagTCP(family)
				if err != nil {
					return err
				}
				found = found || slices.ContainsFunc(socks, func(s *netlink.Socket) bool {
					return s.State == netlink.TCP_LISTEN && s.ID.SourcePort == port
				})
			}
			return nil
		})
		if err != nil || found {
			return err
		}
		if lifecycle.Sleep(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("nobody listens on port %d of %s after %v", port, ns.Name, readyTimeout)
		}
	}
}

// iperfResult reads what iperf3 says at its end.
func iperfResult(raw []byte) (gigabits float64, err error) {
	var said struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		return 0, fmt.Errorf("iperf3 said %.200q: %w", raw, err)
	}
	if said.Error != "" {
		return 0, fmt.Errorf("iperf3: %s", said.Error)
	}
	if said.End.Received.BitsPerSecond <= 0 {
		return 0, errors.New("iperf3 has seen nothing arrive")
	}
	return said.End.Received.BitsPerSecond / 1e9, nil
}
