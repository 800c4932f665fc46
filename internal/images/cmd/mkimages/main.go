// Command mkimages writes the images of a release as archives.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/internal/images"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkimages:", err)
		os.Exit(1)
	}
}

// run reads the flags and makes the release.
func run(ctx context.Context) error {
	cfg := images.Config{Components: images.Components()}
	var archs, only string
	var date int64
	flag.StringVar(&cfg.Module, "module", ".", "`DIR` of the module")
	flag.StringVar(&cfg.Go, "go", "go", "the go `COMMAND`")
	flag.StringVar(&cfg.Out, "out", "dist/images", "`DIR` of the archives")
	flag.StringVar(&cfg.Repository, "repository", "docker.io/ambit", "what stands before the `NAME` of an image")
	flag.StringVar(&cfg.Version, "version", "dev", "the `TAG`")
	flag.StringVar(&archs, "arch", "amd64,arm64", "`ARCHITECTURES`, separated by commas")
	flag.StringVar(&only, "only", "", "`NAMES` of the components, separated by commas (default all)")
	flag.Int64Var(&date, "date", 0, "`SECONDS` since 1970: the date of all files")
	flag.Parse()
	cfg.Archs = strings.Split(archs, ",")
	cfg.Date = time.Unix(date, 0)
	if only != "" {
		picked, err := pick(cfg.Components, strings.Split(only, ","))
		if err != nil {
			return err
		}
		cfg.Components = picked
	}
	return images.Release(ctx, cfg, os.Stdout)
}

// pick returns the components of these names.
func pick(all []images.Component, names []string) (picked []images.Component, err error) {
	for _, name := range names {
		before := len(picked)
		for _, c := range all {
			if c.Name == name {
				picked = append(picked, c)
			}
		}
		if len(picked) == before {
			return nil, fmt.Errorf("no component is called %q", name)
		}
	}
	return picked, nil
}
