package yamldir

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// LineOf is the line in File of the field at path, or of the nearest field above
// it. An empty path is the object itself. It parses the text again, so it is for
// complaints, not for every object.
func (d *Document) LineOf(path string) int {
	var root yaml.Node
	if err := yaml.Unmarshal(d.text, &root); err != nil || len(root.Content) == 0 {
		return d.Line
	}
	return d.start - 1 + lineInFile(d.text, lineOf(root.Content[0], 0, join(d.prefix, path)))
}

// lineBreak is what a YAML parser counts as the end of a line. Editors, and
// everything else here, count \n alone. Source: YAML 1.1, section 5.4.
var lineBreak = regexp.MustCompile("\r\n|[\n\r\u0085\u2028\u2029]")

// lineInFile turns a line that a YAML parser counted in text into one that ends
// with \n, from 1. A line past the end, which parsers name too, is the last one.
func lineInFile(text []byte, line int) int {
	end := len(text)
	if breaks := lineBreak.FindAllIndex(text, max(0, line-1)); len(breaks) >= line-1 {
		end = 0
		if line > 1 {
			end = breaks[line-2][1]
		}
	}
	return 1 + bytes.Count(text[:end], []byte("\n"))
}

// lineOf follows path from n. line is that of the key which led to n.
func lineOf(n *yaml.Node, line int, path string) int {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if line == 0 {
		line = n.Line
	}
	if path == "" {
		return line
	}
	switch n.Kind {
	case yaml.MappingNode:
		var key, value *yaml.Node
		rest := ""
		path = strings.TrimPrefix(path, ".")
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			after, ok := strings.CutPrefix(path, k.Value)
			// Keys such as app.kubernetes.io/name hold dots: the longest wins.
			if ok && (after == "" || after[0] == '.' || after[0] == '[') && (key == nil || len(k.Value) > len(key.Value)) {
				key, value, rest = k, n.Content[i+1], after
			}
		}
		if key != nil {
			return lineOf(value, key.Line, rest)
		}
	case yaml.SequenceNode:
		index, rest, ok := strings.Cut(strings.TrimPrefix(path, "["), "]")
		i, err := strconv.Atoi(index)
		if ok && err == nil && i >= 0 && i < len(n.Content) {
			return lineOf(n.Content[i], n.Content[i].Line, rest)
		}
	}
	return line
}

// linesOf is where the elements of the list at a key of the part begin.
func (p part) linesOf(key string) []int {
	var root yaml.Node
	if err := yaml.Unmarshal(p.text, &root); err != nil || len(root.Content) == 0 {
		return nil
	}
	top := root.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value != key {
			continue
		}
		var lines []int
		for _, element := range top.Content[i+1].Content {
			lines = append(lines, p.line-1+lineInFile(p.text, element.Line))
		}
		return lines
	}
	return nil
}

// pathAt is the path of the value that a JSON decoder had in hand when it
// stopped at offset.
func pathAt(raw []byte, offset int) string {
	dec := json.NewDecoder(bytes.NewReader(raw))
	var stack []level
	for {
		token, err := dec.Token()
		if err != nil {
			return pathOf(stack)
		}
		if len(stack) > 0 {
			stack[len(stack)-1].next(token)
		}
		if int(dec.InputOffset()) >= offset {
			return pathOf(stack)
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, level{})
		case json.Delim('['):
			stack = append(stack, level{list: true, index: -1})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
	}
}

// level is one open object or list of a JSON text that is being read.
type level struct {
	list  bool
	index int    // of the element in hand
	key   string // of the member in hand
	value bool   // the next token of an object is a value
}

// next moves on by one token that stands directly in l.
func (l *level) next(token json.Token) {
	if token == json.Delim('}') || token == json.Delim(']') {
		return
	}
	if l.list {
		l.index++
		return
	}
	if l.value {
		l.value = false
		return
	}
	if key, ok := token.(string); ok {
		l.key, l.value = key, true
	}
}

// pathOf writes the way to the value in hand.
func pathOf(stack []level) string {
	path := ""
	for _, l := range stack {
		switch {
		case l.list && l.index >= 0:
			path += "[" + strconv.Itoa(l.index) + "]"
		case !l.list:
			path = join(path, l.key)
		}
	}
	return path
}
