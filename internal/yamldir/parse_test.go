package yamldir

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	corev1 "k8s.io/api/core/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		file string // name; empty means a.yaml
		text string
		want string // documents as "line Kind namespace/name", or errors; one a line
	}{
		{name: "one document", text: "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\n", want: "1 Pod shop/web"},
		{name: "a document begins at its first line that is no comment",
			text: "# a comment\n\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n# more\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n",
			want: "3 Pod default/a\n8 Pod default/b"},
		{name: "empty documents are none", text: "---\n---\n# nothing\n---\n", want: ""},
		{name: "text on the line of a marker", text: "--- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n", want: "1 Pod default/a"},
		{name: "three dots end a document", text: "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n...\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n",
			want: "1 Pod default/a\n5 Pod default/b"},
		{name: "a marker in a block of text does not separate",
			text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: |\n    ---\n    y\n", want: "1 ConfigMap default/a"},
		{name: "a List is its items, each with its line",
			text: "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: b}\n",
			want: "4 Pod default/a\n7 Pod default/b"},
		{name: "JSON", file: "a.json", text: "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"a\"}\n}", want: "1 Pod default/a"},
		{name: "JSON that ends early: line", file: "a.json", text: "{\n\"apiVersion\": \"v1\",\n\"kind\": }", want: "a.json:3: invalid character '}' looking for beginning of value"},
		{name: "no apiVersion: refused", text: "kind: Pod\nmetadata: {name: a}\n", want: "a.yaml:1: Pod a: apiVersion: missing: every object needs one, such as v1"},
		{name: "no kind: refused", text: "\napiVersion: v1\nmetadata: {name: a}\n", want: "a.yaml:2: kind: missing: every object needs one, such as Pod"},
		{name: "no name: refused at the line of metadata", text: "apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {}\n",
			want: "a.yaml:3: Pod : metadata.name: missing: every object needs a name"},
		{name: "a name that is a number: refused", text: "apiVersion: v1\nkind: Pod\nmetadata:\n  name: 7\n",
			want: "a.yaml:4: metadata.name: want a string, not number: put it into quotes"},
		{name: "a list of objects: refused", text: "- apiVersion: v1\n", want: "a.yaml:1: want a Kubernetes object with apiVersion, kind and metadata"},
		{name: "YAML that cannot be read: line in the file, not in the document",
			text: "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b\n",
			want: "a.yaml:7: did not find expected ',' or '}'"},
		{name: "a key twice: refused", text: "apiVersion: v1\nkind: Pod\nkind: Pod\nmetadata: {name: a}\n",
			want: `a.yaml:3: key "kind" already set in map`},
		{name: "every bad document is named", text: "apiVersion: v1\n---\nkind: Pod\n",
			want: "a.yaml:1: kind: missing: every object needs one, such as Pod\na.yaml:3: Pod : apiVersion: missing: every object needs one, such as v1"},
		{name: "a carriage return alone ends a line for YAML, not for an editor", text: "apiVersion: v1\rkind: Pod\nmetadata:\r\n  name: 7\n",
			want: "a.yaml:3: metadata.name: want a string, not number: put it into quotes"},
		{name: "tabs: refused with the line", text: "apiVersion: v1\nkind: Pod\nmetadata:\n\tname: a\n",
			want: "a.yaml:4: found character that cannot start any token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := tt.file
			if file == "" {
				file = "a.yaml"
			}
			docs, err := Parse(file, []byte(tt.text))
			var got []string
			for _, d := range docs {
				got = append(got, strings.Join([]string{itoa(d.Line), d.Key().String()}, " "))
			}
			if err != nil {
				got = append(got, err.Error())
			}
			if text := strings.Join(got, "\n"); text != tt.want {
				t.Errorf("Parse says\n%s\nwant\n%s", text, tt.want)
			}
		})
	}
}

// itoa keeps the table short.
func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestDecodeIsStrictAndNamesTheLine(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown field", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    prots: []\n",
			`a.yaml:7: Pod a: unknown field "spec.containers[0].prots"`},
		{"wrong case is unknown", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  nodename: x\n",
			`a.yaml:5: Pod a: unknown field "spec.nodename"`},
		{"a word for a number", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    ports:\n    - name: http\n      containerPort: http\n",
			`a.yaml:9: Pod a: spec.containers[0].ports[0].containerPort: want a number (int32), not string`},
		{"a number for a label", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    app.kubernetes.io/version: 1\n",
			`a.yaml:6: Pod a: metadata.labels.app.kubernetes.io/version: want a string, not number: put it into quotes`},
		{"in an item of a List", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n  spec:\n    foo: 1\n",
			`a.yaml:8: Pod a: unknown field "spec.foo"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := Parse("a.yaml", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if err := docs[0].Decode(&corev1.Pod{}); err == nil || err.Error() != tt.want {
				t.Errorf("Decode says\n%v\nwant\n%v", err, tt.want)
			}
		})
	}
}

func TestDecodeMessageIsStrictAndNamesTheLine(t *testing.T) {
	const head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\n"
	tests := []struct{ name, text, want string }{
		{"unknown field", "spec:\n  rules:\n  - to:\n    - operation:\n        methdos: [GET]\n",
			`a.yaml:8: AuthorizationPolicy shop/a: spec.rules[0].to[0].operation.methdos: unknown field "methdos"`},
		{"unknown word", "spec:\n  action: FORBID\n", `a.yaml:5: AuthorizationPolicy shop/a: spec.action: invalid value for enum field action: "FORBID"`},
		{"a word for a list, after a letter of several bytes", "spec:\n  selector: {matchLabels: {app: \"é\"}}\n  rules:\n  - from:\n    - source:\n        principals: me\n",
			`a.yaml:9: AuthorizationPolicy shop/a: spec.rules[0].from[0].source.principals: syntax error: unexpected token "me"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := Parse("a.yaml", []byte(head+tt.text))
			if err != nil {
				t.Fatal(err)
			}
			var object struct{ Spec json.RawMessage }
			if err := json.Unmarshal(docs[0].JSON, &object); err != nil {
				t.Fatal(err)
			}
			err = docs[0].DecodeMessage("spec", object.Spec, &security.AuthorizationPolicy{})
			if err == nil || err.Error() != tt.want {
				t.Errorf("DecodeMessage says\n%v\nwant\n%v", err, tt.want)
			}
		})
	}
}

func TestDurationsAsUsersWriteThem(t *testing.T) {
	const head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: shop}\n"
	tests := []struct{ name, spec, want string }{
		{"milliseconds", "http: [{timeout: 300ms}]", "http: {timeout: {nanos: 300000000}}"},
		{"minutes and seconds", "http: [{timeout: 1m30s}]", "http: {timeout: {seconds: 90}}"},
		{"seconds", "http: [{timeout: 0.5s}]", "http: {timeout: {nanos: 500000000}}"},
		{"below zero", "http: [{timeout: -1500ms}]", "http: {timeout: {seconds: -1, nanos: -500000000}}"},
		{"deeper, by either name of a field", "http: [{retries: {attempts: 2, per_try_timeout: 20ms}}]", "http: {retries: {attempts: 2, per_try_timeout: {nanos: 20000000}}}"},
		{"a text that looks like one", "hosts: [300ms]", `hosts: "300ms"`},
		{"none", "http: [{timeout: soon}]", `a.yaml:6: VirtualService shop/a: spec.http[0].timeout: invalid google.protobuf.Duration value "soon"`},
		{"one that is, and a mistake behind it", "http: [{timeout: 300ms, retries: {attempts: x}}]", `a.yaml:6: VirtualService shop/a: spec.http[0].retries.attempts: invalid value for int32 field attempts: "x"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := Parse("a.yaml", []byte(head+"spec:\n\n  "+tt.spec+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			var object struct{ Spec json.RawMessage }
			if err := json.Unmarshal(docs[0].JSON, &object); err != nil {
				t.Fatal(err)
			}
			got := &networking.VirtualService{}
			if err := docs[0].DecodeMessage("spec", object.Spec, got); err != nil {
				if err.Error() != tt.want {
					t.Errorf("DecodeMessage says\n%v\nwant\n%v", err, tt.want)
				}
				return
			}
			want := &networking.VirtualService{}
			if err := prototext.Unmarshal([]byte(tt.want), want); err != nil || !proto.Equal(got, want) {
				t.Errorf("got %v, want %v (%v)", got, want, err)
			}
		})
	}
}

// Whatever a message holds, writing its durations in seconds changes nothing that the
// decoder accepts.
func FuzzSecondsIn(f *testing.F) {
	f.Add([]byte(`{"http":[{"timeout":"1.5s","retries":{"perTryTimeout":"2s"},"match":[{"headers":{"a":{"exact":"300ms"}}}]}]}`))
	f.Add([]byte(`{"http":[{"timeout":"300ms"}],"hosts":["1m"]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		before, after := &networking.VirtualService{}, &networking.VirtualService{}
		if protojson.Unmarshal(raw, before) != nil {
			return
		}
		if err := protojson.Unmarshal(secondsIn(raw, before.ProtoReflect().Descriptor()), after); err != nil || !proto.Equal(before, after) {
			t.Errorf("%v became %v, %v", before, after, err)
		}
	})
}

// What Parse accepts is JSON with a place inside the file; what it refuses has a
// place inside the file too, and decoding never panics.
func FuzzParse(f *testing.F) {
	f.Add("a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nspec: {containers: [{ports: [{containerPort: x}]}]}\n")
	f.Add("a.yaml", "---\n--- {a: b}\n...\n&x [*x]\n")
	f.Add("a.json", "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{}, null, 1]}")
	f.Fuzz(func(t *testing.T, file, text string) {
		lines := 1 + bytes.Count([]byte(text), []byte("\n"))
		inside := func(what string, line int) {
			if line < 0 || line > lines {
				t.Errorf("%s names line %d of %d", what, line, lines)
			}
		}
		docs, err := Parse(file, []byte(text))
		for _, e := range errorsOf(file, err) {
			if err != nil {
				inside(e.Error(), e.Line)
			}
		}
		for _, d := range docs {
			if !json.Valid(d.JSON) || d.Kind == "" || d.Name == "" || d.Line < 1 {
				t.Errorf("document %+v", d)
			}
			inside(d.Key().String(), d.Line)
			inside("spec", d.LineOf("spec.containers[0].ports[0].containerPort"))
			err := d.Decode(&corev1.Pod{})
			for _, e := range errorsOf(file, err) {
				if err != nil {
					inside(e.Error(), e.Line)
				}
			}
		}
	})
}
