package straightpath

import (
	"testing"

	"github.com/ambit-mesh/ambit/internal/netns/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }
