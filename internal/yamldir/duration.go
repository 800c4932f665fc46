package yamldir

import (
	"bytes"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// durationName is the message that stands for a time span.
var durationName = (*durationpb.Duration)(nil).ProtoReflect().Descriptor().FullName()

// secondsIn returns raw, the JSON of a message of the given kind, with its durations in
// seconds, as protocol buffers want them: users write 300ms and 1m30s, and an API server
// takes both. What cannot be read comes back as it is, for the decoder to complain about.
func secondsIn(raw []byte, kind protoreflect.MessageDescriptor) []byte {
	var value any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if dec.Decode(&value) != nil {
		return raw
	}
	value, changed := inSeconds(value, kind)
	if !changed {
		return raw
	}
	out, err := json.Marshal(value)
	if err != nil {
		return raw
	}
	return out
}

// inSeconds is value, a message of the given kind, with its durations in seconds, and
// whether any was written in another way. It changes what value holds.
func inSeconds(value any, kind protoreflect.MessageDescriptor) (any, bool) {
	if kind.FullName() == durationName {
		return seconds(value)
	}
	object, _ := value.(map[string]any)
	changed := false
	for key, v := range object {
		field := kind.Fields().ByJSONName(key)
		if field == nil {
			field = kind.Fields().ByTextName(key)
		}
		if field == nil || field.Message() == nil {
			continue
		}
		if v, ok := fieldInSeconds(v, field); ok {
			object[key], changed = v, true
		}
	}
	return value, changed
}

// fieldInSeconds is inSeconds for the value of a field.
func fieldInSeconds(value any, field protoreflect.FieldDescriptor) (any, bool) {
	changed := false
	switch {
	case field.IsMap():
		members, _ := value.(map[string]any)
		if field.MapValue().Message() == nil {
			return value, false
		}
		for key, v := range members {
			if v, ok := inSeconds(v, field.MapValue().Message()); ok {
				members[key], changed = v, true
			}
		}
	case field.IsList():
		list, _ := value.([]any)
		for i, v := range list {
			if v, ok := inSeconds(v, field.Message()); ok {
				list[i], changed = v, true
			}
		}
	default:
		return inSeconds(value, field.Message())
	}
	return value, changed
}

// seconds is a duration as protocol buffers write it, and whether it was written in
// another way.
func seconds(value any) (any, bool) {
	text, _ := value.(string)
	d, err := time.ParseDuration(text)
	if err != nil {
		return value, false
	}
	out, err := protojson.Marshal(durationpb.New(d))
	if err != nil {
		return value, false
	}
	canonical := string(bytes.Trim(out, `"`))
	return canonical, canonical != text
}
