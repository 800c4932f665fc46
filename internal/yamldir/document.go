package yamldir

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	kjson "sigs.k8s.io/json"
)

// Document is one object of a file. It is not changed after it was handed out.
type Document struct {
	File string // path, as the directory was given
	Line int    // of its first line in File, from 1
	JSON []byte // the object, whatever it was written in

	APIVersion string
	Kind       string
	Namespace  string // as written; may be empty
	Name       string

	text   []byte // the part of the file that the object stands in
	start  int    // line of the first line of text in File
	prefix string // where the object stands in text: "" or items[3]
}

// Key says which object a document is about. Two documents with one Key are two
// opinions about one object. It is comparable.
type Key struct {
	Group, Kind, Namespace, Name string
}

// Key is the object that the document is about. An empty namespace is the one
// named default; the version is no part of it.
func (d *Document) Key() Key {
	group, _, found := strings.Cut(d.APIVersion, "/")
	if !found {
		group = ""
	}
	return Key{Group: group, Kind: d.Kind, Namespace: cmp.Or(d.Namespace, "default"), Name: d.Name}
}

// String is the way kubectl users name an object: kind namespace/name.
func (k Key) String() string { return k.Kind + " " + k.Namespace + "/" + k.Name }

// Error is what is wrong with a file, and where.
type Error struct {
	File   string
	Line   int    // from 1; 0 when the file as a whole is meant
	Object string // "Pod shop/web"; empty when it is not known
	Err    error  // the reason; never nil
}

// Error is "file:line: object: reason".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Object != "" {
		b.WriteString(e.Object + ": ")
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap makes errors.Is and errors.As see the reason.
func (e *Error) Unwrap() error { return e.Err }

// At is a complaint about the field at path, such as spec.ports[0].port, with
// the line where that field stands, or the nearest one above it.
func (d *Document) At(path string, err error) *Error {
	return &Error{File: d.File, Line: d.LineOf(path), Object: d.object(), Err: err}
}

// Errorf is At with a formatted reason that begins with the path.
func (d *Document) Errorf(path, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	if path != "" {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return d.At(path, err)
}

// object names the document's object as far as it is known.
func (d *Document) object() string {
	switch {
	case d.Kind == "":
		return ""
	case d.Namespace == "":
		return d.Kind + " " + d.Name
	}
	return d.Kind + " " + d.Namespace + "/" + d.Name
}

// Decode fills into, a pointer to a Kubernetes object, and refuses fields that
// its type does not have, fields given twice, and values of the wrong type. The
// error is an [*Error] with the line of the field.
func (d *Document) Decode(into any) error {
	strict, err := kjson.UnmarshalStrict(d.JSON, into)
	if err != nil {
		return d.typeError(err, into)
	}
	if len(strict) > 0 {
		var errs []error
		for _, s := range strict {
			errs = append(errs, d.At(quotedPath(s.Error()), s))
		}
		return errors.Join(errs...)
	}
	return nil
}

// DecodeMessage fills m from raw, the JSON that stands at path of the document,
// for objects whose specification is a protocol buffer message. It is as strict
// as Decode. Durations may be written as an API server takes them, such as 300ms.
func (d *Document) DecodeMessage(path string, raw []byte, m proto.Message) error {
	raw = secondsIn(raw, m.ProtoReflect().Descriptor())
	err := protojson.Unmarshal(raw, m)
	if err == nil {
		return nil
	}
	text := strings.TrimLeft(strings.TrimPrefix(err.Error(), "proto:"), " \u00a0")
	loc := protoPosition.FindStringSubmatch(text)
	if loc == nil {
		return d.At(path, errors.New(text))
	}
	before, after, _ := strings.Cut(text, loc[0])
	line, _ := strconv.Atoi(loc[1])
	column, _ := strconv.Atoi(loc[2])
	at := join(path, pathAt(raw, offsetOf(raw, line, column)+1)) // the position is that before the token
	if before = strings.TrimSpace(before); before != "" {
		before += ": "
	}
	return d.At(at, fmt.Errorf("%s: %s%s", at, before, after))
}

// protoPosition is how protojson says where it stopped.
var protoPosition = regexp.MustCompile(`\(line (\d+):(\d+)\):? ?`)

// typeError adds line and path to the error of decoding into a pointer.
func (d *Document) typeError(err error, into any) *Error {
	// The strict decoder hides where it stopped; the standard one does not.
	again := json.Unmarshal(d.JSON, reflect.New(reflect.TypeOf(into).Elem()).Interface())
	var mistyped *json.UnmarshalTypeError
	if !errors.As(again, &mistyped) {
		return d.At("", errors.New(strings.TrimPrefix(err.Error(), "json: ")))
	}
	at := pathAt(d.JSON, int(mistyped.Offset))
	return d.At(at, fmt.Errorf("%s: %s", at, mistype(mistyped)))
}

// mistype says which type is wanted. YAML takes yes, on, 1.0 and others for
// something else than the words they look like.
func mistype(e *json.UnmarshalTypeError) string {
	text := fmt.Sprintf("want %s, not %s", describe(e.Type.String()), e.Value)
	if e.Type.Kind() == reflect.String && (e.Value == "bool" || strings.HasPrefix(e.Value, "number")) {
		text += ": put it into quotes"
	}
	return text
}

// describe turns a Go type into words for the author of a manifest.
func describe(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	case strings.HasPrefix(goType, "map["), strings.Contains(goType, "."):
		return "an object (" + goType + ")"
	case strings.HasPrefix(goType, "int"), strings.HasPrefix(goType, "uint"):
		return "a number (" + goType + ")"
	case goType == "bool":
		return "true or false"
	}
	return "a " + goType
}

// quotedPath is the path that a strict error names: unknown field "spec.foo".
func quotedPath(text string) string {
	_, rest, _ := strings.Cut(text, `"`)
	path, _, _ := strings.Cut(rest, `"`)
	return path
}

// join puts a path below another.
func join(parent, child string) string {
	switch {
	case parent == "":
		return child
	case child == "" || strings.HasPrefix(child, "["):
		return parent + child
	}
	return parent + "." + child
}

// offsetOf is the byte offset of a position that counts lines and runes from 1.
func offsetOf(raw []byte, line, column int) int {
	offset := 0
	for ; line > 1; line-- {
		i := strings.IndexByte(string(raw[offset:]), '\n')
		if i < 0 {
			break
		}
		offset += i + 1
	}
	for ; column > 1 && offset < len(raw); column-- {
		_, size := utf8.DecodeRune(raw[offset:])
		offset += size
	}
	return offset
}
