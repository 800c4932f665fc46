package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

// addons are the objects that every cluster has.
//
//go:embed addons.yaml
var addons string

// applyAddons makes the cluster's own objects, as soon as the API server answers.
func (c *Cluster) applyAddons(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	text := strings.NewReplacer("$DNS_ADDRESS", dnsAddress.String(), "$DNS_IMAGE", CoreDNSImage).Replace(addons)
	for {
		var out bytes.Buffer
		ready := c.Kubectl(ctx, "get", "--raw=/readyz", "--request-timeout=2s")
		if ready.Run() == nil {
			cmd := c.Kubectl(ctx, "apply", "-f", "-")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &out
			if cmd.Run() == nil {
				return nil
			}
		}
		if err := lifecycle.Sleep(ctx, pollEvery); err != nil {
			return fmt.Errorf("the API server does not take the cluster's own objects; its log is %s/%s/var/log/kube-apiserver.log: %w\n%s",
				c.dir, controlName, err, indent(out.Bytes()))
		}
	}
}
