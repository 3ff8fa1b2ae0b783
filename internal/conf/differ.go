package conf

import (
	"reflect"

	"go.yaml.in/yaml/v3"
)

// Differ gives the keys of the parts in which two configurations of one type
// differ, in the order of their fields. What a file says in another place, in
// another order of keys or with other comments is the same.
func Differ(before, after any) (keys []string) {
	a, b := reflect.ValueOf(before), reflect.ValueOf(after)
	for i := range a.NumField() {
		if key := keyOf(a.Type().Field(i)); key != "" && !same(a.Field(i), b.Field(i)) {
			keys = append(keys, key)
		}
	}
	return keys
}

// same tells whether two values of one type are the same. Of a struct that keeps
// something to itself only what is equal to the last byte is.
func same(a, b reflect.Value) bool {
	if reflect.DeepEqual(a.Interface(), b.Interface()) {
		return true
	}
	if raw, ok := a.Interface().(Raw); ok {
		return sameNode(raw.node, b.Interface().(Raw).node)
	}
	switch a.Kind() {
	case reflect.Pointer, reflect.Interface:
		return !a.IsNil() && !b.IsNil() && a.Elem().Type() == b.Elem().Type() && same(a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			if !a.Type().Field(i).IsExported() || !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		return a.IsNil() == b.IsNil() && sameItems(a, b)
	case reflect.Array:
		return sameItems(a, b)
	case reflect.Map:
		return a.IsNil() == b.IsNil() && sameEntries(a, b)
	}
	return false
}

func sameItems(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	for i := range a.Len() {
		if !same(a.Index(i), b.Index(i)) {
			return false
		}
	}
	return true
}

func sameEntries(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	for _, key := range a.MapKeys() {
		other := b.MapIndex(key)
		if !other.IsValid() || !same(a.MapIndex(key), other) {
			return false
		}
	}
	return true
}

// sameNode tells whether two parts of files say the same.
func sameNode(a, b *yaml.Node) bool {
	a, b = behind(a), behind(b)
	if a == nil || b == nil {
		return a == b
	}
	if a.Kind != b.Kind || a.ShortTag() != b.ShortTag() || a.Value != b.Value || len(a.Content) != len(b.Content) {
		return false
	}
	for i, part := range a.Content {
		if a.Kind != yaml.MappingNode {
			if !sameNode(part, b.Content[i]) {
				return false
			}
		} else if i%2 == 1 { // a value, behind its key
			other := child(b, a.Content[i-1].Value)
			if other == nil || !sameNode(part, other) {
				return false
			}
		}
	}
	return true
}

// behind gives the part that an alias stands for.
func behind(node *yaml.Node) *yaml.Node {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}
