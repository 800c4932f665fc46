package lab

import (
	"fmt"
	"os/exec"
	"path/filepath"
)

// Hint is a command to look around a standing lab, and what it shows.
type Hint struct {
	Shows   string
	Command string
}

// LookAround returns commands that work on this machine now: with programs that
// are installed, on namespaces that exist. self is how to call ambit.
func (l *Lab) LookAround(self string) []Hint {
	web, api := l.Pod("shop", "web"), l.Pod("books", "api-2")
	in := func(ns Namespace) string {
		if _, err := exec.LookPath("ip"); err != nil {
			return "nsenter --net=" + ns.Path()
		}
		return "ip netns exec " + ns.Name
	}
	name := nameFlag(l.cfg.Name)
	get := "curl -sS"
	if _, err := exec.LookPath("curl"); err != nil {
		get = self + " lab-app --get"
	}
	hints := []Hint{
		{"a client in the mesh calls a server on the other node", fmt.Sprintf("%s %s http://%v/", in(web.NetNS), get, api.At(HTTPPort))},
		{"the same by the address of a service", fmt.Sprintf("%s %s http://%v/", in(web.NetNS), get, l.Service("books", "api").AddrPort())},
		{"what the ztunnel of node-1 knows", fmt.Sprintf("%s %s http://127.0.0.1:%d/config_dump", in(web.Node.NetNS), get, ztunnelAdmin)},
		{"all pods", self + " pods" + name},
		{"what became of connections between two pods, and which rule decided", self + " why shop/web books/api-2" + name},
		{"the same in the words of a ztunnel", "tail -n 3 " + filepath.Join(api.Node.Dir, "ztunnel.log")},
	}
	if _, err := exec.LookPath("nft"); err == nil {
		hints = append(hints, Hint{"the redirection of a pod", in(web.NetNS) + " nft list ruleset"})
	}
	return append(hints,
		Hint{"the manifests: change, add or remove one and see it take effect", "ls " + l.manifests.Dir},
		Hint{"end all of it", self + " demo clean" + name},
	)
}

// nameFlag is the flag of a lab that has not the usual name.
func nameFlag(name string) string {
	if name == defaultName {
		return ""
	}
	return " --name " + name
}
