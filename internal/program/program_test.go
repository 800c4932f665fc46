package program

import (
	"context"
	"errors"
	"testing"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runnerFunc is a Runner.
type runnerFunc func(context.Context) error

func (f runnerFunc) Run(ctx context.Context) error { return f(ctx) }

func TestExitCodeSaysWhetherItRan(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name  string
		args  []string
		start error // of making it
		run   error // of running it
		want  int
	}{
		{"it ends when it is asked to", nil, nil, nil, ExitOK},
		{"it fails while it runs", nil, nil, broken, ExitFailed},
		{"it cannot be made", nil, broken, nil, ExitUsage},
		{"a flag that is none", []string{"--nope"}, nil, nil, ExitUsage},
		{"a log format that is none", []string{"--log-format", "xml"}, nil, nil, ExitUsage},
		{"a log level that is none", []string{"--log-level", "loud"}, nil, nil, ExitUsage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &Program{Name: "test", Version: "1"}
			ran := false
			cmd := &cobra.Command{SilenceUsage: true, SilenceErrors: true, RunE: func(cmd *cobra.Command, _ []string) error {
				return p.Serve(cmd.Context(), func(d Deps) (Runner, error) {
					return runnerFunc(func(ctx context.Context) error {
						ran = true
						d.Log.Info("running")
						return tt.run
					}), tt.start
				})
			}}
			p.Flags(cmd.Flags(), "none")
			if got := p.Execute(t.Context(), cmd, append([]string{"--log-level=error"}, tt.args...)); got != tt.want {
				t.Errorf("exit code %d, want %d", got, tt.want)
			}
			if want := tt.want != ExitUsage; ran != want {
				t.Errorf("it ran: %v, want %v", ran, want)
			}
		})
	}
}
