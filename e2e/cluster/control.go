package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/ambit-mesh/ambit/e2e/cluster/machine"
)

// Where the cluster's programs are on each machine.
const programRoot = "/lab/"

// where programs lead to on the machines.
func (b *builder) programMounts(names ...string) []machine.Program {
	var all []machine.Program
	for _, n := range names {
		all = append(all, machine.Program{Host: b.programs.dirs[n], Path: programRoot + n})
	}
	return all
}

// server is the address of the API server as all see it.
func (b *builder) server() string {
	return "https://" + netip.AddrPortFrom(b.state.Machines[0].Address, 6443).String()
}

// writeControl makes the directory of the control plane's machine.
func (b *builder) writeControl() error {
	dir := b.machineDir(controlName)
	pki := filepath.Join(dir, "etc/kubernetes")
	if err := os.MkdirAll(pki, 0o700); err != nil {
		return err
	}
	if err := b.writeEtc(dir, controlName); err != nil {
		return err
	}
	address := net.IP(b.state.Machines[0].Address.AsSlice())
	apiserver := subject{
		name:      "kube-apiserver",
		dns:       []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
		addresses: []net.IP{address, net.IPv4(127, 0, 0, 1), net.IP(serviceCIDR.Addr().Next().AsSlice())},
	}
	masters := []string{"system:masters"}
	err := errors.Join(
		os.WriteFile(filepath.Join(pki, "ca.crt"), b.ca.pem, 0o644),
		b.ca.writePair(pki, "apiserver", apiserver),
		b.ca.writePair(pki, "kubelet-client", subject{name: "kube-apiserver-kubelet-client", groups: masters}),
		b.ca.writePair(pki, "front-proxy", subject{name: "front-proxy-client"}),
		b.ca.writePair(pki, "service-accounts", subject{name: "service-accounts"}),
		b.ca.writeKubeconfig(filepath.Join(pki, "controller-manager.conf"), b.server(), subject{name: "system:kube-controller-manager"}),
		b.ca.writeKubeconfig(filepath.Join(pki, "scheduler.conf"), b.server(), subject{name: "system:kube-scheduler"}),
		b.ca.writeKubeconfig(b.kubeconfig(), b.server(), subject{name: "lab-admin", groups: masters}),
	)
	if err != nil {
		return err
	}
	return machine.Spec{
		Hostname: controlName,
		Programs: b.programMounts(groupKubernetes, groupEtcd),
		Services: b.controlServices(),
	}.Write(dir)
}

// controlServices are the programs of the control plane.
func (b *builder) controlServices() []machine.Service {
	const pki = "/etc/kubernetes/"
	address := b.state.Machines[0].Address.String()
	return []machine.Service{
		{Name: "etcd", Path: programRoot + "etcd/etcd", Args: []string{
			"--data-dir=/var/lib/etcd", "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
			"--initial-cluster=default=http://127.0.0.1:2380",
			"--unsafe-no-fsync", // a lab's data need not survive a power cut
		}},
		{Name: "kube-apiserver", Path: programRoot + "kubernetes/kube-apiserver", Args: []string{
			"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--advertise-address=" + address, "--secure-port=6443",
			"--service-cluster-ip-range=" + serviceCIDR.String(), "--allow-privileged=true", "--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--client-ca-file=" + pki + "ca.crt", "--tls-cert-file=" + pki + "apiserver.crt", "--tls-private-key-file=" + pki + "apiserver.key",
			"--kubelet-client-certificate=" + pki + "kubelet-client.crt", "--kubelet-client-key=" + pki + "kubelet-client.key",
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file=" + pki + "service-accounts.key", "--service-account-signing-key-file=" + pki + "service-accounts.key",
			"--requestheader-client-ca-file=" + pki + "ca.crt", "--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + pki + "front-proxy.crt", "--proxy-client-key-file=" + pki + "front-proxy.key",
			// Webhooks are called at their endpoints: no kube-proxy runs here.
			"--enable-aggregator-routing=true",
			"--audit-log-maxage=0", "--profiling=false",
		}},
		{Name: "kube-controller-manager", Path: programRoot + "kubernetes/kube-controller-manager", Args: []string{
			"--kubeconfig=" + pki + "controller-manager.conf", "--use-service-account-credentials", "--root-ca-file=" + pki + "ca.crt",
			"--service-account-private-key-file=" + pki + "service-accounts.key", "--leader-elect=false",
			"--cluster-cidr=" + podCIDR.String(), "--service-cluster-ip-range=" + serviceCIDR.String(),
			// A node that was switched off is noticed in a time that a test can wait for.
			"--node-monitor-grace-period=20s", "--node-monitor-period=2s",
			"--profiling=false",
		}},
		{Name: "kube-scheduler", Path: programRoot + "kubernetes/kube-scheduler", Args: []string{
			"--kubeconfig=" + pki + "scheduler.conf", "--leader-elect=false", "--profiling=false",
		}},
	}
}

// writeEtc makes the few files of /etc that programs expect.
func (b *builder) writeEtc(dir, hostname string) error {
	etc := filepath.Join(dir, "etc")
	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	for _, m := range b.state.Machines {
		hosts += fmt.Sprintf("%v %s\n", m.Address, m.Name)
	}
	files := map[string]string{
		"hosts": hosts, "hostname": hostname + "\n",
		"resolv.conf":   "nameserver " + dnsAddress.String() + "\n",
		"nsswitch.conf": "hosts: files dns\n",
		"passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"group":         "root:x:0:\nnogroup:x:65534:\n",
	}
	errs := []error{os.MkdirAll(etc, 0o755)}
	for name, text := range files {
		errs = append(errs, os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644))
	}
	return errors.Join(errs...)
}
