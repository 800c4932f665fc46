package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/ambit-mesh/ambit/internal/identity"
	"github.com/ambit-mesh/ambit/internal/meshapi/securityapi"
	"github.com/ambit-mesh/ambit/internal/streamio"
)

// The functions of this file turn what a stage got into an [Error] that says
// who has to act and what to try. One function per stage, so that all hints of
// a stage can be read, and tested, as a table. An error that is an [*Error]
// already is returned as it is; nil stays nil.

// tunnelPort is where every enrolled pod takes tunnels. Source: HBONE.
const tunnelPort = 15008

// ExplainCapture explains why a connection of a pod could not be taken over.
func ExplainCapture(err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault = StageCapture, FaultLocal
		if !explainKernel(e) {
			e.Hint = "where was it going? look at the pod's rules: nft list ruleset, in its network namespace"
		}
	})
}

// ExplainRoute explains why there is no way to dst. hint may be empty.
func ExplainRoute(dst netip.AddrPort, hint string, err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault, e.Hint = StageRoute, FaultControl, hint
		if hint == "" {
			e.Hint = fmt.Sprintf("what the mesh knows of %v: GET /config_dump on localhost:15000", dst.Addr())
		}
	})
}

// ExplainPolicy explains a refusal by the rule policy, or by a policy that is
// named but has not arrived: then policy is empty.
func ExplainPolicy(policy string, err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault = StagePolicy, FaultPolicy
		if policy == "" {
			e.Hint = "no rule allowed it: look at the policies of the destination's namespace"
			return
		}
		if namespace, service, ok := securityapi.ThroughWaypoint(policy); ok {
			e.Hint = fmt.Sprintf("it came around the waypoint of service %s/%s, and the pod lets in nobody else on that port: call the service, not the pod; the label ambit.dev/only-through-waypoint: \"false\" lets callers come around",
				namespace, service)
			return
		}
		e.Hint = "decided by " + policy + ": kubectl get authorizationpolicy,peerauthentication -A"
	})
}

// ExplainIdentity explains why there is no certificate for id.
func ExplainIdentity(id identity.ID, err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault = StageIdentity, FaultControl
		if errors.Is(err, context.DeadlineExceeded) {
			e.Hint = fmt.Sprintf("the CA has not answered for %v: is it reachable, and is the node's token valid?", id)
			return
		}
		e.Hint = fmt.Sprintf("no certificate for %v: state and reason are in certificates of /config_dump", id)
	})
}

// ExplainDial explains why TCP to the proxy at peer did not come about.
func ExplainDial(peer netip.AddrPort, err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault = StageDial, FaultPeer
		switch {
		case explainKernel(e):
		case isTimeout(err) && peer.Port() == tunnelPort:
			e.Fault = FaultNetwork
			e.Hint = fmt.Sprintf("no answer from %v: does a NetworkPolicy or firewall block TCP port %d?", peer.Addr(), tunnelPort)
		case isTimeout(err):
			e.Fault = FaultNetwork
			e.Hint = fmt.Sprintf("no answer from %v on TCP port %d", peer.Addr(), peer.Port())
		case errors.Is(err, syscall.ECONNREFUSED):
			e.Hint = fmt.Sprintf("nothing listens on %v: is the pod still in the mesh, and is ztunnel up on its node?", peer)
		case errors.Is(err, syscall.ECONNRESET):
			e.Hint = fmt.Sprintf("%v closed the connection at once: is it a tunnel port?", peer)
		}
	})
}

// ExplainTLS explains why the two proxies did not agree on who they are.
func ExplainTLS(peer netip.AddrPort, err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault = StageTLS, FaultPeer
		var unknownCA x509.UnknownAuthorityError
		var invalid x509.CertificateInvalidError
		var record tls.RecordHeaderError
		var alert tls.AlertError
		switch {
		case errors.As(err, &unknownCA):
			e.Hint = fmt.Sprintf("%v has a certificate of another root: do both sides have the same CA and trust domain?", peer)
		case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
			e.Hint = fmt.Sprintf("the certificate of %v is out of its time: does its proxy reach the CA, and are the clocks right?", peer)
		case errors.As(err, &record):
			e.Hint = fmt.Sprintf("%v does not speak TLS: is it a tunnel port?", peer)
		case errors.As(err, &alert):
			e.Hint = fmt.Sprintf("%v refused our certificate: its log says why", peer)
		case isTimeout(err):
			e.Fault = FaultNetwork
			e.Hint = fmt.Sprintf("%v took TCP but did not answer: a firewall that inspects TLS, or a proxy under load?", peer)
		}
	})
}

// ExplainHTTP2 explains why HTTP/2 did not come about in the tunnel to peer.
func ExplainHTTP2(peer netip.AddrPort, err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault = StageHTTP2, FaultPeer
		e.Hint = fmt.Sprintf("%v proved who it is but did not speak HTTP/2: its log says why", peer)
	})
}

// ExplainRefused explains the answer status of the proxy at peer to CONNECT.
func ExplainRefused(peer netip.AddrPort, status int, err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault = StageConnect, FaultPeer
		switch status {
		case 400:
			e.Hint = fmt.Sprintf("%v does not serve that address: has it changed its pod?", peer)
		case 401, 403:
			e.Fault = FaultPolicy
			e.Hint = "a policy of the destination refused it: the destination's access log names the rule"
		case 503:
			e.Fault = FaultApp
			e.Hint = "the destination's proxy could not reach the application: does it listen on that port?"
		}
	})
}

// ExplainApp explains why TCP to an application, or to a destination outside
// the mesh, did not come about.
func ExplainApp(app netip.AddrPort, err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault = StageApp, FaultApp
		switch {
		case explainKernel(e):
		case errors.Is(err, syscall.ECONNREFUSED):
			e.Hint = fmt.Sprintf("nothing listens on %v: is the application up, and does it listen on that address?", app)
		case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
			e.Fault = FaultNetwork
			e.Hint = fmt.Sprintf("there is no route to %v from the pod", app.Addr())
		case isTimeout(err):
			e.Fault = FaultNetwork
			e.Hint = fmt.Sprintf("no answer from %v", app)
		}
	})
}

// ExplainCopy explains what broke a connection that carried bytes. The client
// of an outbound connection and the server of an inbound one are applications.
func ExplainCopy(d Direction, err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault = StageCopy, FaultUnknown
		broken, ok := errors.AsType[*streamio.CopyError](err)
		if !ok {
			return
		}
		e.Fault = FaultPeer
		if (d == Outbound) == (broken.Side == streamio.Client) {
			e.Fault = FaultApp
		}
	})
}

// ExplainDrain explains that a connection was cut because this process ends.
func ExplainDrain(err error) error {
	return explain(err, func(e *Error) {
		e.Stage, e.Fault = StageDrain, FaultLocal
		e.Hint = "this proxy was asked to stop and the connection outlived its grace period"
	})
}

// explain fills an Error for err, unless err is explained or nil.
func explain(err error, fill func(*Error)) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	e := &Error{Err: err}
	fill(e)
	return e
}

// explainKernel explains errors that are this node's whatever the stage, and
// reports whether e is one.
func explainKernel(e *Error) bool {
	switch {
	case errors.Is(e.Err, syscall.EMFILE), errors.Is(e.Err, syscall.ENFILE):
		e.Hint = "this proxy is out of file descriptors: raise LimitNOFILE"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		e.Hint = "no free port, or the pod has lost its address: ss -s, and ip addr, in its network namespace"
	case errors.Is(e.Err, syscall.EADDRINUSE):
		e.Hint = "the client's address and port are taken: did it connect again within a minute?"
	case errors.Is(e.Err, syscall.EPERM), errors.Is(e.Err, syscall.EACCES):
		e.Hint = "the kernel forbids it: does the proxy have CAP_NET_ADMIN, and does a local rule drop it?"
	case errors.Is(e.Err, syscall.ENOBUFS), errors.Is(e.Err, syscall.ENOMEM):
		e.Hint = "the kernel is out of memory for sockets: net.ipv4.tcp_mem"
	default:
		return false
	}
	e.Fault = FaultLocal
	return true
}

// isTimeout tells whether err means that nobody answered in time.
func isTimeout(err error) bool {
	var nerr net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) ||
		errors.As(err, &nerr) && nerr.Timeout()
}
