package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

var (
	errHelp    = errors.New("help was asked for")
	errVersion = errors.New("the version was asked for")
)

// parseFlags lays the flags of args over env: --node-name=n is NODE_NAME=n.
func parseFlags(args []string, env map[string]string) error {
	fs := flag.NewFlagSet("ztunnel", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for _, s := range settings {
		fs.Func(s.flag(), s.help, func(value string) error {
			env[s.env] = value
			return nil
		})
	}
	show := fs.Bool("version", false, "say which build this is")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return errHelp
	case err != nil:
		return fmt.Errorf("%w; see ztunnel --help", err)
	case *show:
		return errVersion
	case fs.NArg() > 0 && fs.Arg(0) != "proxy":
		// An existing DaemonSet calls "ztunnel proxy ztunnel".
		return fmt.Errorf("%q is not understood; see ztunnel --help", fs.Arg(0))
	}
	return nil
}
