package agent

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/cni/event"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// FuzzRequests: whatever comes as a request of the plugin, the agent lives, takes
// nobody in whom no manifest names, and says of half a request what it was.
func FuzzRequests(f *testing.F) {
	paths := []string{event.PathAdd, event.PathDel, event.PathCheck, event.PathGC}
	const pod = `{"Netns":"/nowhere","PodName":"a","PodNamespace":"b","ContainerID":"c","IfName":"eth0","IPs":[{"Address":{"IP":"10.0.0.1","Mask":"/////w=="}}]}`
	for i := range paths {
		f.Add(uint8(i), []byte(pod))
	}
	f.Add(uint8(3), []byte(`{"Network":"pods","Valid":[{"ContainerID":"c","IfName":"eth0"}]}`))
	f.Add(uint8(0), []byte(`{"IPs":[{"Address":{"IP":"x"}}]}`))
	f.Add(uint8(1), []byte(`{`))
	a, err := New(Config{
		AnswerTimeout: time.Millisecond, ExcludeNamespaces: []string{"kube-system"}, StateFile: filepath.Join(f.TempDir(), "state.json"),
	}, Deps{Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Pods: NewDirectory(f.TempDir(), zap.NewNop())})
	if err != nil {
		f.Fatal(err)
	}
	handler := a.Handler()
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		path := paths[int(which)%len(paths)]
		var add event.Add
		err := json.NewDecoder(bytes.NewReader(body)).Decode(&add)
		if _, exists := os.Stat(add.Netns); exists == nil {
			return // a file of this machine
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(body)))
		switch answer := w.Body.String(); {
		case w.Code != http.StatusOK && answer == "":
			t.Errorf("%s of %q: %d without a reason", path, body, w.Code)
		case path != event.PathAdd && path != event.PathCheck:
		case err != nil && (w.Code != http.StatusBadRequest || !strings.Contains(answer, path)):
			t.Errorf("%s of %q: %d %q, want %d that names the request", path, body, w.Code, answer, http.StatusBadRequest)
		case err == nil && w.Code == http.StatusOK && add.PodNamespace != "kube-system" && path == event.PathAdd:
			t.Errorf("%s of %q: a pod that nobody knows may start", path, body)
		}
		if pods := a.Pods(); len(pods) != 0 {
			t.Fatalf("%s of %q: the agent has %v", path, body, pods)
		}
	})
}
