package admin

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"crypto/x509"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/telemetry"
)

// dump is the answer of /config_dump. Existing tools parse these keys.
type dump struct {
	Workloads       []workloadDump      `json:"workloads"`
	Services        []serviceDump       `json:"services"`
	Policies        []policyDump        `json:"policies"`
	StagedServices  map[string]struct{} `json:"stagedServices"`
	StaticConfig    map[string]struct{} `json:"staticConfig"`
	Version         versionDump         `json:"version"`
	Config          map[string]string   `json:"config"`
	Certificates    []certificateDump   `json:"certificates"`
	WorkloadState   map[string]podDump  `json:"workloadState"`
	SeededWorkloads []workloadDump      `json:"seededWorkloads"` // ours: of the agent only
	PictureVersion  uint64              `json:"pictureVersion"`  // ours

	// ControlPlaneRoots is ours: by it one sees who has a new root already.
	ControlPlaneRoots []string `json:"controlPlaneRoots,omitempty"`
}

// versionDump says what runs here.
type versionDump struct {
	Version   string `json:"version"`
	Revision  string `json:"gitRevision"`
	GoVersion string `json:"goVersion"`
	Component string `json:"component"`
}

// configDump answers with all that this proxy knows.
func (s *Server) configDump(w http.ResponseWriter, _ *http.Request) {
	snap := s.deps.Picture.Snapshot()
	d := dump{
		Workloads:       []workloadDump{},
		Services:        []serviceDump{},
		Policies:        []policyDump{},
		StagedServices:  map[string]struct{}{},
		StaticConfig:    map[string]struct{}{},
		Version:         s.version(),
		Config:          withoutSecrets(s.cfg.Settings),
		Certificates:    []certificateDump{},
		WorkloadState:   podState(s.deps.Pods(), s.deps.Connections.Live()),
		SeededWorkloads: []workloadDump{},
		PictureVersion:  snap.Version(),
	}
	if s.deps.ControlPlaneRoots != nil {
		d.ControlPlaneRoots = s.deps.ControlPlaneRoots()
	}
	for _, wl := range snap.Workloads() {
		d.Workloads = append(d.Workloads, dumpWorkload(wl))
	}
	for _, wl := range snap.Seeds() {
		d.SeededWorkloads = append(d.SeededWorkloads, dumpWorkload(wl))
	}
	for _, svc := range snap.Services() {
		d.Services = append(d.Services, dumpService(snap, svc))
	}
	for _, p := range snap.Policies() {
		d.Policies = append(d.Policies, dumpPolicy(p))
	}
	for _, status := range s.deps.Certificates.Dump() {
		d.Certificates = append(d.Certificates, dumpCertificate(status))
	}
	s.answerJSON(w, &d)
}

// version says what runs here.
func (s *Server) version() versionDump {
	v := versionDump{Version: s.cfg.Version, Component: s.cfg.Component}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.GoVersion = info.GoVersion
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				v.Revision = setting.Value
			}
		}
	}
	return v
}

// hidden stands in for a value that is not shown.
const hidden = "(hidden)"

// withoutSecrets copies settings; values that are secrets, or may be, are
// hidden. A token can be given by its text in place of its path, and headers
// carry credentials.
func withoutSecrets(settings map[string]string) map[string]string {
	out := make(map[string]string, len(settings))
	for name, value := range settings {
		upper := strings.ToUpper(name)
		for _, word := range []string{"TOKEN", "SECRET", "PASSWORD", "HEADER", "KEY", "CREDENTIAL"} {
			if strings.Contains(upper, word) && !strings.Contains(upper, "KEEPALIVE") && value != "" {
				value = hidden
			}
		}
		if strings.Contains(value, "PRIVATE KEY") {
			value = hidden
		}
		out[name] = value
	}
	return out
}

// certificateDump is one identity and what proves it. It holds nothing that is
// secret.
type certificateDump struct {
	Identity  string    `json:"identity"`
	State     string    `json:"state"`
	CertChain []certDef `json:"certChain"`
	RootCerts []certDef `json:"rootCerts"`
}

// certDef is one certificate.
type certDef struct {
	PEM            string `json:"pem"` // base64 of the PEM text, as existing tools expect
	SerialNumber   string `json:"serialNumber"`
	ValidFrom      string `json:"validFrom"`
	ExpirationTime string `json:"expirationTime"`
}

// dumpCertificate reads the public part of what an identity has.
func dumpCertificate(status identity.Status) certificateDump {
	d := certificateDump{
		Identity: status.ID.String(), State: string(status.State),
		CertChain: []certDef{}, RootCerts: []certDef{},
	}
	if status.State == identity.Unavailable && status.Err != nil {
		d.State = fmt.Sprintf("%s: %s", status.State, status.Err)
	}
	if status.Certificate == nil {
		return d
	}
	for _, c := range status.Certificate.Chain {
		d.CertChain = append(d.CertChain, defCert(c))
	}
	for _, c := range status.Certificate.Roots {
		d.RootCerts = append(d.RootCerts, defCert(c))
	}
	return d
}

// defCert is one certificate for tools.
func defCert(c *x509.Certificate) certDef {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	return certDef{
		PEM:            base64.StdEncoding.EncodeToString(text),
		SerialNumber:   c.SerialNumber.String(),
		ValidFrom:      c.NotBefore.UTC().Format(time.RFC3339),
		ExpirationTime: c.NotAfter.UTC().Format(time.RFC3339),
	}
}

// podDump is one pod of ours and its connections.
type podDump struct {
	State       string         `json:"state"`
	Connections podConnections `json:"connections"`
	Info        podInfo        `json:"info"`
}

// podConnections are the open connections of one pod.
type podConnections struct {
	Inbound  []connectionDump `json:"inbound"`
	Outbound []connectionDump `json:"outbound"`
}

// podInfo says which pod it is.
type podInfo struct {
	Name           string `json:"name"`
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
	TrustDomain    string `json:"trustDomain,omitempty"`
}

// connectionDump is one open connection.
type connectionDump struct {
	Src         string  `json:"src"`
	OriginalDst *string `json:"originalDst"`
	ActualDst   string  `json:"actualDst"`
	Protocol    string  `json:"protocol"`
	Hop         string  `json:"hop"` // ours
	ID          uint64  `json:"id"`  // ours: the number in /connections
}

// podState lists the pods with their connections. A connection of a pod that
// has gone is in /connections only.
func podState(pods []Pod, live []telemetry.Entry) map[string]podDump {
	byPod := make(map[string]podConnections)
	for i := range live {
		c := &live[i].Conn
		all := byPod[c.Pod]
		if c.Direction == telemetry.Inbound {
			all.Inbound = append(all.Inbound, dumpConnection(&live[i]))
		} else {
			all.Outbound = append(all.Outbound, dumpConnection(&live[i]))
		}
		byPod[c.Pod] = all
	}
	out := make(map[string]podDump, len(pods))
	for _, p := range pods {
		state, all := "Pending", byPod[p.UID]
		if p.Up {
			state = "Up"
		}
		all.Inbound = append([]connectionDump{}, all.Inbound...) // [] and not null
		all.Outbound = append([]connectionDump{}, all.Outbound...)
		out[p.UID] = podDump{
			State: state, Connections: all,
			Info: podInfo{p.Name, p.Namespace, p.ServiceAccount, p.TrustDomain},
		}
	}
	return out
}

// dumpConnection is one connection for tools. The original destination of a
// tunnel that came in is the host name it asked for; there is none when it
// asked for an address.
func dumpConnection(e *telemetry.Entry) connectionDump {
	c := &e.Conn
	d := connectionDump{
		Src: c.Source.Addr.String(), ActualDst: c.ActualDst.String(),
		Protocol: "HBONE", Hop: c.Hop.String(), ID: e.ID,
	}
	if c.Hop == telemetry.HopDirect {
		d.Protocol = "TCP"
	}
	if !c.ActualDst.IsValid() {
		d.ActualDst = c.Destination.Addr.String()
	}
	switch {
	case c.Direction == telemetry.Inbound && c.Authority != "":
		if host, _, err := net.SplitHostPort(c.Authority); err == nil && net.ParseIP(host) == nil {
			d.OriginalDst = &host
		}
	case c.OriginalDst.IsValid():
		text := c.OriginalDst.String()
		d.OriginalDst = &text
	}
	return d
}
