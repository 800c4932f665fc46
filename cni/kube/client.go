package kube

import (
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// requestTimeout bounds each request that is not a watch.
const requestTimeout = 10 * time.Second

// Connect makes a client of the cluster that the kubeconfig file names, or of the
// one that we run in when file is empty. It asks nothing yet.
func Connect(file string) (kubernetes.Interface, error) {
	cfg, err := config(file)
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = "ambit-cni-agent"
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return kubernetes.NewForConfig(cfg)
}

// config reads where the cluster is and who we are.
func config(file string) (*rest.Config, error) {
	if file != "" {
		return clientcmd.BuildConfigFromFlags("", file)
	}
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("%w; outside of a cluster use --kubeconfig", err)
	}
	return cfg, nil
}
