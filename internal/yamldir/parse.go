package yamldir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// Parse cuts a file into documents. path decides the format (*.json is JSON,
// everything else YAML) and stands in errors, which are [*Error]s, joined.
// Documents of kind List are taken apart. A file of comments holds no documents.
func Parse(path string, content []byte) ([]*Document, error) {
	var docs []*Document
	var errs []error
	for _, part := range split(path, content) {
		raw, err := part.toJSON()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if raw == nil {
			continue
		}
		more, err := part.documents(raw, part.firstLine(), "")
		if err != nil {
			errs = append(errs, err)
		}
		docs = append(docs, more...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return docs, nil
}

// part is the text of one document of a file.
type part struct {
	file string
	line int // of the first line of text in file, from 1
	text []byte
	json bool
}

// split cuts content at document markers. Markers inside a block scalar are
// indented, so a marker in the first column always separates.
func split(path string, content []byte) []part {
	if filepath.Ext(path) == ".json" {
		return []part{{file: path, line: 1, text: content, json: true}}
	}
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	var parts []part
	current := part{file: path, line: 1}
	number := 0
	for line := range bytes.Lines(content) {
		number++
		if !isMarker(line) {
			current.text = append(current.text, line...)
			continue
		}
		parts = append(parts, current)
		current = part{file: path, line: number}
		if rest := line[3:]; line[0] == '-' && len(bytes.TrimSpace(rest)) > 0 {
			current.text = append([]byte("   "), rest...) // "--- {kind: Pod}" keeps its columns
		} else {
			current.text = []byte("\n")
		}
	}
	return append(parts, current)
}

// isMarker reports whether line begins or ends a document.
// Source: YAML 1.2, section 9.1.
func isMarker(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("---")) && !bytes.HasPrefix(line, []byte("...")) {
		return false
	}
	return len(line) == 3 || strings.ContainsRune(" \t\r\n", rune(line[3]))
}

// toJSON is the document as JSON; nil when there is nothing in it.
func (p part) toJSON() ([]byte, error) {
	if p.json {
		return p.checkJSON()
	}
	if err := p.checkAliases(); err != nil {
		return nil, err
	}
	raw, err := yaml.YAMLToJSONStrict(p.text)
	if err != nil {
		return nil, p.yamlError(err)
	}
	if bytes.Equal(raw, []byte("null")) {
		return nil, nil
	}
	return raw, nil
}

// checkJSON makes one-line JSON, so that columns are offsets.
func (p part) checkJSON() ([]byte, error) {
	if len(bytes.TrimSpace(p.text)) == 0 {
		return nil, nil
	}
	var all json.RawMessage
	if err := json.Unmarshal(p.text, &all); err != nil {
		line := 0
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line = 1 + bytes.Count(p.text[:min(int(syntax.Offset), len(p.text))], []byte("\n"))
		}
		return nil, &Error{File: p.file, Line: line, Err: err}
	}
	var out bytes.Buffer
	if err := json.Compact(&out, all); err != nil {
		return nil, &Error{File: p.file, Err: err}
	}
	return out.Bytes(), nil
}

// yamlLine is how YAML parsers say where they stopped, counted in the text that
// they were given.
var yamlLine = regexp.MustCompile(`line (\d+): ?`)

// yamlError moves the line of a YAML error from the document to the file.
func (p part) yamlError(err error) *Error {
	text := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.Join(strings.Fields(strings.TrimPrefix(text, "unmarshal errors:")), " ")
	line := 0
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1])
		line = p.line - 1 + lineInFile(p.text, n)
		text = strings.Replace(text, m[0], "", 1)
	}
	if line == 0 {
		line = p.firstLine()
	}
	return &Error{File: p.file, Line: line, Err: errors.New(text)}
}

// firstLine is the line of the first text that is no comment.
func (p part) firstLine() int {
	line := p.line
	for text := range bytes.Lines(p.text) {
		trimmed := bytes.TrimSpace(text)
		if len(trimmed) > 0 && trimmed[0] != '#' {
			return line
		}
		line++
	}
	return p.line
}

// head is what every Kubernetes object has.
type head struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// documents is the object in raw, or the objects of a List. line is where it
// begins and prefix its path in the part.
func (p part) documents(raw []byte, line int, prefix string) ([]*Document, error) {
	d := &Document{File: p.file, Line: line, JSON: raw, text: p.text, start: p.line, prefix: prefix}
	if len(raw) == 0 || raw[0] != '{' {
		return nil, d.Errorf("", "want a Kubernetes object with apiVersion, kind and metadata")
	}
	var h head
	if err := json.Unmarshal(raw, &h); err != nil {
		var mistyped *json.UnmarshalTypeError
		if !errors.As(err, &mistyped) {
			return nil, d.At("", err)
		}
		return nil, d.Errorf(mistyped.Field, "%s", mistype(mistyped))
	}
	d.APIVersion, d.Kind, d.Namespace, d.Name = h.APIVersion, h.Kind, h.Metadata.Namespace, h.Metadata.Name
	switch {
	case h.APIVersion == "":
		return nil, d.Errorf("apiVersion", "missing: every object needs one, such as v1")
	case h.Kind == "":
		return nil, d.Errorf("kind", "missing: every object needs one, such as Pod")
	case strings.HasSuffix(h.Kind, "List") && h.Metadata.Name == "" && h.Items != nil && prefix == "":
		return p.items(h.Items)
	case h.Metadata.Name == "":
		return nil, d.Errorf("metadata.name", "missing: every object needs a name")
	}
	return []*Document{d}, nil
}

// items takes a List apart.
func (p part) items(items []json.RawMessage) ([]*Document, error) {
	lines := p.linesOf("items")
	var docs []*Document
	var errs []error
	for i, raw := range items {
		line := p.line
		if i < len(lines) {
			line = lines[i]
		}
		more, err := p.documents(raw, line, fmt.Sprintf("items[%d]", i))
		if err != nil {
			errs = append(errs, err)
		}
		docs = append(docs, more...)
	}
	return docs, errors.Join(errs...)
}
