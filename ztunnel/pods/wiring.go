package pods

import (
	"errors"

	"go.uber.org/zap"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/policy"
	"github.com/ambit-mesh/ambit/internal/workload"
)

// errIdentityGone is why connections end whose certificate was forgotten.
var errIdentityGone = errors.New("the identity of this pod is gone")

// CertificateChanged tells of a certificate that came or was renewed, or of an
// identity that was forgotten (c is nil). A renewal alone ends nothing.
func (m *Manager) CertificateChanged(id identity.ID, c *identity.Certificate) {
	users := m.users(id)
	for _, x := range users {
		if c != nil {
			x.in.Renewed(c)
			if x.out != nil {
				x.out.Renewed(c)
			}
		}
	}
	if c == nil && len(users) == 0 {
		m.deps.Gate.Revoke(func(s policy.Subject, _ policy.Request) bool {
			return s.Namespace == id.Namespace && s.ServiceAccount == id.ServiceAccount
		}, errIdentityGone)
	}
}

// users returns the pods that speak as id.
func (m *Manager) users(id identity.ID) []*proxy {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []*proxy
	for _, x := range m.up {
		x.mu.Lock()
		if x.identity == id {
			out = append(out, x)
		}
		x.mu.Unlock()
	}
	return out
}

// PictureChanged tells of a new picture: connections are decided again, and a
// pod whose identity is other than the agent's word said keeps that one.
func (m *Manager) PictureChanged(snap *workload.Snapshot) {
	m.deps.Gate.Changed()
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, x := range m.up {
		if w, ok := snap.LookupPod(x.subject); ok && !w.Identity.IsZero() {
			x.speakAs(m.deps.Certs, w.Identity)
		}
	}
}

// seed tells the picture what the agent knows of p, so that it need not wait
// for the control plane before it may call others.
func (m *Manager) seed(p *pod) {
	addrs, err := p.ns.Addrs()
	if err != nil {
		m.log.Warn("addresses of a pod cannot be read", podFields(p, zap.Error(err))...)
	}
	m.deps.State.Seed(workload.LocalWorkload{
		UID: p.uid, Name: p.info.Name, Namespace: p.info.Namespace, ServiceAccount: p.info.ServiceAccount,
		Addresses: reported(addrs),
	})
}

// retain sees to it that x has a certificate before it needs one.
func (m *Manager) retain(x *proxy) {
	if w, ok := m.deps.State.Snapshot().LookupPod(x.subject); ok && !w.Identity.IsZero() {
		x.speakAs(m.deps.Certs, w.Identity)
		return
	}
	id, err := identity.NewID(m.cfg.TrustDomain, x.subject.Namespace, x.subject.ServiceAccount)
	if err != nil {
		m.log.Warn("pod has no identity until the control plane names one", zap.Stringer("pod", x.subject), zap.Error(err))
		return
	}
	x.speakAs(m.deps.Certs, id)
}

// speakAs makes x keep the certificate of id, in place of another.
func (x *proxy) speakAs(certs *identity.Manager, id identity.ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.identity == id {
		return
	}
	old := x.release
	x.identity, x.release = id, certs.Retain(id)
	if old != nil {
		old()
	}
}
