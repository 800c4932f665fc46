package workload

import "github.com/ambit-mesh/ambit/internal/policy"

// changes makes the next snapshot out of the last one. It copies what differs
// and shares the rest; one goroutine uses it, once.
type changes struct {
	next     *Snapshot
	edit     *edit
	differs  bool
	reranged bool          // a service with a range came or went
	left     []NetworkAddr // by workloads that take tunnels
}

func newChanges(last *Snapshot) *changes {
	next := *last
	next.version++
	return &changes{next: &next, edit: &edit{}}
}

// finish returns the next snapshot, and whether anything is different in it.
func (c *changes) finish() (*Snapshot, bool) {
	if c.reranged {
		c.next.services.ranges = newRanges(c.next.services.byKey)
	}
	return c.next, c.differs
}

// addWorkload takes w, whose UID nobody has, into all indexes.
func (c *changes) addWorkload(w *Workload) {
	c.differs = true
	t := &c.next.workloads
	t.byUID = t.byUID.set(c.edit, w.UID, w)
	if c.next.local(w) {
		addTo(&t.byPod, c.edit, w.Subject(), w, comparePods)
	}
	if w.Hostname != "" {
		addTo(&t.byHost, c.edit, foldHost(w.Hostname), w, compareUIDs)
	}
	if !w.HostNetwork {
		for _, a := range w.Addresses {
			addTo(&t.byAddr, c.edit, NetworkAddr{w.Network, a}, w, compareHolders)
		}
	}
	for k, ports := range w.Services {
		set, _ := t.endpoints.get(k)
		t.endpoints = t.endpoints.set(c.edit, k, set.with(c.edit, &Endpoint{Workload: w, Ports: ports}))
	}
}

// removeWorkload takes a workload out of all indexes and reports whether it was
// there.
func (c *changes) removeWorkload(uid string) bool {
	w := c.next.Workload(uid)
	if w == nil {
		return false
	}
	c.differs = true
	t := &c.next.workloads
	t.byUID = t.byUID.del(c.edit, uid)
	if c.next.local(w) {
		removeFrom(&t.byPod, c.edit, w.Subject(), w)
	}
	if w.Hostname != "" {
		removeFrom(&t.byHost, c.edit, foldHost(w.Hostname), w)
	}
	if !w.HostNetwork {
		for _, a := range w.Addresses {
			removeFrom(&t.byAddr, c.edit, NetworkAddr{w.Network, a}, w)
		}
	}
	for k := range w.Services {
		set, _ := t.endpoints.get(k)
		if set = set.without(c.edit, uid); set != nil {
			t.endpoints = t.endpoints.set(c.edit, k, set)
		} else {
			t.endpoints = t.endpoints.del(c.edit, k)
		}
	}
	return true
}

// addService takes svc, whose key nobody has, into all indexes. Its endpoints
// may have been there before it.
func (c *changes) addService(svc *Service) {
	c.differs = true
	t := &c.next.services
	t.byKey = t.byKey.set(c.edit, svc.Key, svc)
	addTo(&t.byHost, c.edit, foldHost(svc.Hostname), svc, compareServices)
	for _, v := range svc.VIPs {
		if v.Prefix.IsSingleIP() {
			addTo(&t.byVIP, c.edit, NetworkAddr{v.Network, v.Prefix.Addr()}, svc, compareServices)
		}
	}
	c.reranged = c.reranged || hasRange(svc)
}

// removeService takes a service out of all indexes and reports whether it was
// there. Its endpoints stay, for when it comes back.
func (c *changes) removeService(name string) bool {
	k, ok := ParseKey(name)
	if !ok {
		return false
	}
	svc := c.next.Service(k)
	if svc == nil {
		return false
	}
	c.differs = true
	t := &c.next.services
	t.byKey = t.byKey.del(c.edit, k)
	removeFrom(&t.byHost, c.edit, foldHost(svc.Hostname), svc)
	for _, v := range svc.VIPs {
		if v.Prefix.IsSingleIP() {
			removeFrom(&t.byVIP, c.edit, NetworkAddr{v.Network, v.Prefix.Addr()}, svc)
		}
	}
	c.reranged = c.reranged || hasRange(svc)
	return true
}

// addPolicy takes p, whose name nobody has, into all indexes.
func (c *changes) addPolicy(p *policy.Policy) {
	c.differs = true
	t := &c.next.policies
	t.byName = t.byName.set(c.edit, p.Name(), p)
	if ns, ok := policyIndex(p); ok {
		addTo(&t.byNamespace, c.edit, ns, p, comparePolicies)
	}
}

// removePolicy takes a policy out of all indexes, if it is there.
func (c *changes) removePolicy(name string) {
	p := c.next.Policy(name)
	if p == nil {
		return
	}
	c.differs = true
	t := &c.next.policies
	t.byName = t.byName.del(c.edit, name)
	if ns, ok := policyIndex(p); ok {
		removeFrom(&t.byNamespace, c.edit, ns, p)
	}
}

// policyIndex is the namespace whose workloads p applies to without being named;
// "" means all.
func policyIndex(p *policy.Policy) (namespace string, ok bool) {
	switch p.Scope() {
	case policy.ScopeGlobal:
		return "", true
	case policy.ScopeNamespace:
		return p.Namespace(), true
	case policy.ScopeWorkload:
	}
	return "", false
}

// seed takes what the CNI agent says.
func (c *changes) seed(l LocalWorkload) {
	c.unseed(l.UID)
	c.differs = true
	t := &c.next.seeds
	w := seedWorkload(c.next.cfg, l)
	t.byUID = t.byUID.set(c.edit, w.UID, w)
	addTo(&t.byPod, c.edit, w.Subject(), w, compareUIDs)
}

// unseed forgets what the CNI agent said.
func (c *changes) unseed(uid string) {
	t := &c.next.seeds
	w, ok := t.byUID.get(uid)
	if !ok {
		return
	}
	c.differs = true
	t.byUID = t.byUID.del(c.edit, uid)
	removeFrom(&t.byPod, c.edit, w.Subject(), w)
}

// addTo puts v into the sorted list at key. Lists are never changed in place:
// an older snapshot may hold them.
func addTo[K comparable, V any](t *table[K, []*V], e *edit, key K, v *V, compare func(a, b *V) int) {
	list, _ := t.get(key)
	*t = t.set(e, key, insertSorted(list, v, compare))
}

// removeFrom takes v out of the list at key.
func removeFrom[K comparable, V any](t *table[K, []*V], e *edit, key K, v *V) {
	list, ok := t.get(key)
	if !ok {
		return
	}
	if list = without(list, v); len(list) == 0 {
		*t = t.del(e, key)
		return
	}
	*t = t.set(e, key, list)
}
