package kube_test

import (
	"testing"

	"github.com/ambit-mesh/ambit/e2e/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }
