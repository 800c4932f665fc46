package straightpath

import (
	"testing"

	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

// Package streamio keeps empty pipes for later use: at most 64.
func TestMain(m *testing.M) { netnstest.MainSparing(m, map[string]int{"pipe:": 2 * 64}) }
