package lifecycle_test

import (
	"errors"
	"testing"

	"github.com/ambit-mesh/ambit/internal/lifecycle"
)

func TestFirstError(t *testing.T) {
	var f lifecycle.FirstError
	if err := f.Keep("pods", nil); err != nil || f.Err() != nil {
		t.Errorf("nothing happened: %v, %v", err, f.Err())
	}
	cause := errors.New("no socket")
	f.Keep("xds", cause)
	if err := f.Keep("admin", errors.New("closed")); !errors.Is(err, cause) || err.Error() != "xds: no socket" {
		t.Errorf("Keep = %v, want the first", err)
	}
}
