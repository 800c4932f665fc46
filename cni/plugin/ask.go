package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// askTimeout bounds one question. It is that of the ambient ecosystem: well
// below the time after which a kubelet gives a sandbox up.
const askTimeout = 5 * time.Second

// maxAnswer bounds how much of an answer is read, in bytes.
const maxAnswer = 16 << 10

// refusal is an answer of the agent other than 200.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string {
	if r.text == "" {
		return fmt.Sprintf("the agent answered %d without a reason", r.status)
	}
	return r.text
}

// ask puts one question to the agent at socket. The error is a [*refusal] when
// the agent answered no.
func ask(ctx context.Context, socket, method, path string, body any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if answer.StatusCode == http.StatusOK {
		return err
	}
	return &refusal{status: answer.StatusCode, text: strings.TrimSpace(string(text))}
}

// unreachable reports whether the agent did not answer at all.
func unreachable(err error) bool {
	_, refused := errors.AsType[*refusal](err)
	return !refused
}

// explain makes the error that the runtime shows for what could not be done.
func explain(what, socket string, err error) *types.Error {
	if !unreachable(err) {
		return types.NewError(types.ErrInternal, "ambit-cni: "+what+": the agent refused", err.Error())
	}
	return types.NewError(types.ErrTryAgainLater,
		"ambit-cni: "+what+": no answer from the agent at "+socket,
		err.Error()+"; does ambit-cni-agent run on this node, and is cni_agent_run_dir in the network configuration its run directory?")
}
