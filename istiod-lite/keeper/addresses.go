package keeper

import (
	"context"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"sync"

	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/ambit-mesh/ambit/istiod-lite/kube"
	"github.com/ambit-mesh/ambit/istiod-lite/model"
)

// addressManager owns the addresses in a status, apart from the conditions: both
// are applied on their own.
const addressManager = "istiod-lite-addresses"

// The ranges of automatic addresses. Source: the ambient ecosystem; 240.0.0.0/4
// is reserved and 2001:2::/48 is for benchmarks, so that neither is anywhere.
func ranges() [2]netip.Prefix {
	return [2]netip.Prefix{netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/48")}
}

// owner is who has an address.
type owner struct {
	entry model.Key
	host  string
}

// pool knows which addresses are taken. The leader's is filled from what stands in
// the status of entries.
type pool struct {
	// mu guards the fields below, and makes allocations one by one.
	mu    sync.Mutex
	taken map[netip.Addr]owner
	of    map[model.Key]map[netip.Addr]string // the same by entry, with the host
	known bool                                // filled
}

// newPool is empty.
func newPool() *pool {
	return &pool{taken: map[netip.Addr]owner{}, of: map[model.Key]map[netip.Addr]string{}}
}

// takeLocked notes whose an address is. The caller holds p.mu.
func (p *pool) takeLocked(addr netip.Addr, o owner) {
	p.taken[addr] = o
	if p.of[o.entry] == nil {
		p.of[o.entry] = map[netip.Addr]string{}
	}
	p.of[o.entry][addr] = o.host
}

// freeLocked notes that an entry does not have an address any more. The caller
// holds p.mu.
func (p *pool) freeLocked(addr netip.Addr, entry model.Key) {
	delete(p.taken, addr)
	delete(p.of[entry], addr)
	if len(p.of[entry]) == 0 {
		delete(p.of, entry)
	}
}

// clear forgets everything: it is filled again before the next allocation.
func (p *pool) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken, p.of, p.known = map[netip.Addr]owner{}, map[model.Key]map[netip.Addr]string{}, false
}

// fillLocked notes what stands in the status of all entries. The caller holds
// p.mu.
func (p *pool) fillLocked(world World) {
	if p.known {
		return
	}
	p.known = true
	keys := world.Keys(model.KindServiceEntry)
	slices.SortFunc(keys, func(a, b model.Key) int { return strings.Compare(a.String(), b.String()) })
	for _, key := range keys {
		if o, _ := world.Look(key); o != nil {
			p.keepLocked(key, o.(*networking.ServiceEntry))
		}
	}
}

// keepLocked notes the addresses that an entry has, and frees those that it has
// no more. The result are the ones it may keep, by host. The caller holds p.mu.
func (p *pool) keepLocked(key model.Key, e *networking.ServiceEntry) map[string][]netip.Addr {
	hosts := model.AutoAddressHosts(e)
	kept := map[string][]netip.Addr{}
	for _, a := range e.Status.GetAddresses() {
		addr, err := netip.ParseAddr(a.GetValue())
		if err != nil || !slices.Contains(hosts, a.GetHost()) {
			continue
		}
		mine := owner{key, a.GetHost()}
		if other, taken := p.taken[addr]; taken && other != mine {
			continue // somebody else had it first
		}
		p.takeLocked(addr, mine)
		kept[a.GetHost()] = append(kept[a.GetHost()], addr)
	}
	for addr, host := range p.of[key] {
		if !slices.Contains(kept[host], addr) {
			p.freeLocked(addr, key)
		}
	}
	return kept
}

// allocateLocked finds a free address of a range for a host: always the same one
// as long as it is free, so that a lost status is made again as it was. The caller
// holds p.mu.
func (p *pool) allocateLocked(r netip.Prefix, o owner) (netip.Addr, bool) {
	hash := fnv.New64a()
	hash.Write([]byte(o.entry.Namespace + "/" + o.entry.Name + "/" + o.host))
	seed := hash.Sum64()
	const size = 1<<16 - 2 // of the smaller range, without its first and last
	for i := range uint64(size) {
		n := (seed+i)%size + 1
		bytes := r.Addr().AsSlice()
		bytes[len(bytes)-2], bytes[len(bytes)-1] = byte(n>>8), byte(n)
		addr, _ := netip.AddrFromSlice(bytes)
		if _, taken := p.taken[addr]; !taken {
			p.takeLocked(addr, o)
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// assign is what should stand in the status of an entry, and whether that differs
// from what does.
func (p *pool) assign(world World, key model.Key, e *networking.ServiceEntry) (content []any, differs bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fillLocked(world)
	kept := p.keepLocked(key, e)
	content = []any{}
	for _, host := range model.AutoAddressHosts(e) {
		for _, r := range ranges() {
			at := slices.IndexFunc(kept[host], r.Contains)
			var addr netip.Addr
			if at >= 0 {
				addr = kept[host][at]
			} else {
				free := false
				if addr, free = p.allocateLocked(r, owner{key, host}); !free {
					continue
				}
			}
			content = append(content, map[string]any{"value": addr.String(), "host": host})
		}
	}
	if len(content) != len(e.Status.GetAddresses()) {
		return content, true
	}
	for i, a := range e.Status.GetAddresses() {
		want := content[i].(map[string]any)
		differs = differs || a.GetValue() != want["value"] || a.GetHost() != want["host"]
	}
	return content, differs
}

// release frees the addresses of an entry that is gone.
func (p *pool) release(key model.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for addr := range p.of[key] {
		p.freeLocked(addr, key)
	}
}

// keepAddresses gives an entry without addresses some of its own, which stand in
// its status for as long as it does.
func (k *Keeper) keepAddresses(ctx context.Context, key model.Key) error {
	version := k.deps.Version(key.Kind)
	o, _ := k.deps.World.Look(key)
	e, ok := o.(*networking.ServiceEntry)
	if !ok {
		k.pool.release(key)
		return nil
	}
	target, known := kube.StatusOf(key, version)
	if !known || version == "" || e.DeletionTimestamp != nil {
		return nil
	}
	content, differs := k.pool.assign(k.deps.World, key, e)
	if !differs {
		return nil
	}
	if err := k.deps.Client.Apply(ctx, addressManager, target, map[string]any{"status": map[string]any{"addresses": content}}); err != nil {
		return errorOf("addresses", key, err)
	}
	k.wrote(key)
	return nil
}
