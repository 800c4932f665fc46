package yamldir

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// maxExpanded is how large a document may get when its aliases are written out,
// besides four times its own size. Our choice: far above any manifest, and small
// enough that one of them does not bring the process down.
const maxExpanded = 4 << 20

// checkAliases refuses a document that aliases would blow up. The parser counts
// values, not how long they are: a text of a megabyte that is named a thousand
// times passes there.
func (p part) checkAliases() error {
	if !bytes.Contains(p.text, []byte("&")) || !bytes.Contains(p.text, []byte("*")) {
		return nil
	}
	var root yaml.Node
	if err := yaml.Unmarshal(p.text, &root); err != nil {
		return nil // whoever parses it for good says why
	}
	limit := int64(maxExpanded + 4*len(p.text))
	e := expansion{limit: limit, sizes: map[*yaml.Node]int64{}}
	if e.size(&root) <= limit {
		return nil
	}
	return &Error{File: p.file, Line: p.firstLine(), Err: fmt.Errorf("has more than %d bytes when its aliases (*name) are written out: write fewer of them", limit)}
}

// expansion finds how large a document is without its aliases.
type expansion struct {
	limit int64
	sizes map[*yaml.Node]int64 // of anchors
}

// size is that of n and all below it, or something above the limit. An alias of
// what it stands in counts nothing: the parser refuses it.
func (e *expansion) size(n *yaml.Node) int64 {
	if n.Kind == yaml.AliasNode {
		return e.size(n.Alias)
	}
	if n.Anchor != "" {
		if size, known := e.sizes[n]; known {
			return size
		}
		e.sizes[n] = 0
	}
	size := int64(len(n.Value)) + 1
	for _, child := range n.Content {
		if size += e.size(child); size > e.limit {
			break
		}
	}
	if n.Anchor != "" {
		e.sizes[n] = size
	}
	return size
}
