package main

import (
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// clean takes control characters out of every text of an answer: a run's name
// comes from whoever trains, and must not move the cursor of whoever looks.
func clean(m proto.Message) {
	cleanMessage(m.ProtoReflect())
}

func cleanMessage(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
			cleanMap(field, v.Map())
		case field.IsList():
			list := v.List()
			for i := range list.Len() {
				list.Set(i, cleanValue(field, list.Get(i)))
			}
		default:
			m.Set(field, cleanValue(field, v))
		}
		return true
	})
}

func cleanMap(field protoreflect.FieldDescriptor, values protoreflect.Map) {
	cleaned := map[string]protoreflect.Value{}
	values.Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
		cleaned[cleanText(key.String())] = cleanValue(field.MapValue(), v)
		if cleanText(key.String()) != key.String() {
			values.Clear(key)
		}
		return true
	})
	if field.MapKey().Kind() != protoreflect.StringKind {
		return
	}
	for key, v := range cleaned {
		values.Set(protoreflect.ValueOfString(key).MapKey(), v)
	}
}

func cleanValue(field protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(cleanText(v.String()))
	case protoreflect.MessageKind:
		cleanMessage(v.Message())
	}
	return v
}

// cleanText puts a space for each control character.
func cleanText(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}
