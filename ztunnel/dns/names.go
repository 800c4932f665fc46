package dns

import "strings"

// candidate is a host name that a client may mean by the name it asks for.
type candidate struct {
	host string
	// rest is what is left of the name without a search domain; "" when none
	// was taken off.
	rest string
}

// names knows the names of a cluster.
type names struct {
	domain string // of the cluster, such as cluster.local
}

// candidates lists what a client of namespace may mean by name, best first: the
// name itself, its Kubernetes long forms, then the same without each search
// domain that Kubernetes gives to pods. name is in lower case without the last
// dot. A name with an escaped character means nothing here.
func (n names) candidates(name, namespace string) []candidate {
	if name == "" || strings.Contains(name, `\`) {
		return nil
	}
	var out []candidate
	seen := make(map[string]bool)
	add := func(host, rest string) {
		if !seen[host] {
			seen[host] = true
			out = append(out, candidate{host: host, rest: rest})
		}
	}
	add(name, "")
	for _, long := range n.longForms(name, namespace) {
		add(long, "")
	}
	for _, search := range []string{namespace + ".svc." + n.domain, "svc." + n.domain, n.domain} {
		rest, ok := strings.CutSuffix(name, "."+search)
		if !ok || rest == "" {
			continue
		}
		add(rest, rest)
		for _, long := range n.longForms(rest, namespace) {
			add(long, rest)
		}
	}
	return out
}

// longForms returns the full names of services and of pods with a name of their
// own that name can be short for.
func (n names) longForms(name, namespace string) []string {
	svc := ".svc." + n.domain
	underSvc := strings.HasSuffix(name, ".svc")
	switch strings.Count(name, ".") + 1 {
	case 1: // service
		return []string{name + "." + namespace + svc}
	case 2: // service.namespace, or pod.service
		return []string{name + svc, name + "." + namespace + svc}
	case 3: // service.namespace.svc, or pod.service.namespace
		if underSvc {
			return []string{name + "." + n.domain, name + svc}
		}
		return []string{name + svc}
	case 4: // pod.service.namespace.svc
		if underSvc {
			return []string{name + "." + n.domain}
		}
	}
	return nil
}

// isService reports whether host has the form of a Kubernetes service.
func (n names) isService(host string) bool {
	return strings.HasSuffix(strings.ToLower(host), ".svc."+n.domain)
}

// eachPattern calls try with host, then with the wildcards that cover it, the
// most specific first, until it says that it has found something.
func eachPattern(host string, try func(pattern string) (found bool)) bool {
	if try(host) {
		return true
	}
	for {
		_, parent, ok := strings.Cut(host, ".")
		if !ok {
			return false
		}
		if try("*." + parent) {
			return true
		}
		host = parent
	}
}
