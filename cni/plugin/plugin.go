package plugin

import (
	"context"
	"net/http"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// Versions are those of the CNI specification that the plugin speaks.
var Versions = version.All

// Funcs returns the commands of the plugin. ctx ends a command that waits.
func Funcs(ctx context.Context) skel.CNIFuncs {
	return skel.CNIFuncs{
		Add:    func(args *skel.CmdArgs) error { return add(ctx, args) },
		Del:    func(args *skel.CmdArgs) error { return del(ctx, args) },
		Check:  func(args *skel.CmdArgs) error { return check(ctx, args) },
		GC:     func(args *skel.CmdArgs) error { return gc(ctx, args) },
		Status: func(args *skel.CmdArgs) error { return status(ctx, args) },
	}
}

// add has the pod enrolled, if it should be, and passes on the result of the
// plugins before.
func add(ctx context.Context, args *skel.CmdArgs) error {
	conf, p, err := read(args)
	if err != nil {
		return err
	}
	before, err := conf.result()
	if err != nil {
		return err
	}
	if conf.skips(p) == "" {
		if err := ask(ctx, conf.socket(), http.MethodPost, event.PathAdd, question(args, conf.Name, p, before)); err != nil {
			return explain("enrol pod "+p.namespace+"/"+p.name, conf.socket(), err)
		}
	}
	return types.PrintResult(conf.PrevResult, conf.CNIVersion)
}

// check asks whether the rules of the pod are still what they should be.
func check(ctx context.Context, args *skel.CmdArgs) error {
	conf, p, err := read(args)
	if err != nil {
		return err
	}
	before, err := conf.result()
	if err != nil || conf.skips(p) != "" {
		return err
	}
	if err := ask(ctx, conf.socket(), http.MethodPost, event.PathCheck, question(args, conf.Name, p, before)); err != nil {
		return explain("check pod "+p.namespace+"/"+p.name, conf.socket(), err)
	}
	return nil
}

// del tells the agent that the attachment is going. A pod must be able to end
// while the agent is away; the agent notices by itself then.
func del(ctx context.Context, args *skel.CmdArgs) error {
	conf, p, err := read(args)
	if err != nil {
		return err
	}
	if conf.skips(p) != "" {
		return nil
	}
	err = ask(ctx, conf.socket(), http.MethodPost, event.PathDel, event.Del{
		ContainerID: args.ContainerID, IfName: args.IfName, Netns: args.Netns, PodName: p.name, PodNamespace: p.namespace,
	})
	if err != nil && !unreachable(err) {
		return explain("remove pod "+p.namespace+"/"+p.name, conf.socket(), err)
	}
	return nil
}

// gc has everything forgotten that the runtime does not list.
func gc(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	valid := make([]event.Attachment, 0, len(conf.ValidAttachments))
	for _, a := range conf.ValidAttachments {
		valid = append(valid, event.Attachment{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	if err := ask(ctx, conf.socket(), http.MethodPost, event.PathGC, event.GC{Network: conf.Name, Valid: valid}); err != nil {
		return explain("collect what is left of removed pods", conf.socket(), err)
	}
	return nil
}

// status asks whether pods can be enrolled now.
func status(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if err := ask(ctx, conf.socket(), http.MethodGet, event.PathStatus, nil); err != nil {
		e := explain("pods cannot be enrolled", conf.socket(), err)
		e.Code = types.ErrPluginNotAvailable
		return e
	}
	return nil
}

// read reads what every command about a pod needs.
func read(args *skel.CmdArgs) (*Config, pod, error) {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return nil, pod{}, err
	}
	p, err := parsePod(args)
	return conf, p, err
}

// question is what the agent has to know of the pod.
func question(args *skel.CmdArgs, network string, p pod, r *current.Result) event.Add {
	q := event.Add{
		Netns: args.Netns, PodName: p.name, PodNamespace: p.namespace, PodUID: p.uid,
		ContainerID: args.ContainerID, IfName: args.IfName, Network: network,
	}
	for _, ip := range r.IPs {
		q.IPs = append(q.IPs, event.IPConfig{Interface: ip.Interface, Address: ip.Address, Gateway: ip.Gateway})
	}
	return q
}
