package conf

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/vigil-ml/vigil/internal/fault"
)

// walker decodes a tree of nodes and gathers the mistakes.
type walker struct {
	file     string
	problems Problems
}

// read decodes a part, if it is there, and checks the values, those that the
// part left alone too: all mistakes are told together, in the order of the
// file.
func (w *walker) read(node *yaml.Node, path string, into any) error {
	if node != nil {
		w.value(node, path, reflect.ValueOf(into).Elem())
	}
	w.check(path, into, node)
	if len(w.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(w.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return fault.Mark(fault.Invalid, w.problems)
}

func (w *walker) report(node *yaml.Node, path, format string, args ...any) {
	p := Problem{File: w.file, Path: path, Text: fmt.Sprintf(format, args...)}
	if node != nil {
		p.Line = node.Line
	}
	w.problems = append(w.problems, p)
}

func (w *walker) value(node *yaml.Node, path string, v reflect.Value) {
	node = behind(node)
	switch v.Interface().(type) {
	case Raw:
		v.Set(reflect.ValueOf(Raw{node: node, file: w.file, path: path}))
		return
	case time.Duration:
		w.duration(node, path, v)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		w.structure(node, path, v)
	case reflect.Slice:
		w.slice(node, path, v)
	case reflect.Map:
		w.mapping(node, path, v)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		w.value(node, path, v.Elem())
	default:
		if err := node.Decode(v.Addr().Interface()); err != nil {
			w.report(node, path, "%q is not %s", node.Value, describe(v.Kind()))
		}
	}
}

func (w *walker) duration(node *yaml.Node, path string, v reflect.Value) {
	d, err := time.ParseDuration(node.Value)
	if err != nil {
		w.report(node, path, "%q is not a duration such as 30s, 5m or 1h30m", node.Value)
		return
	}
	v.SetInt(int64(d))
}

func (w *walker) structure(node *yaml.Node, path string, v reflect.Value) {
	if node.Kind != yaml.MappingNode {
		if node.Tag != "!!null" {
			w.report(node, path, "want keys with values here")
		}
		return
	}
	fields := fieldsOf(v.Type())
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		at := join(path, key.Value)
		index, ok := fields[key.Value]
		switch {
		case !ok:
			w.report(key, at, "unknown key%s", suggest(key.Value, fields))
		case seen[key.Value]:
			w.report(key, at, "the key is given twice")
		default:
			seen[key.Value] = true
			w.value(value, at, v.Field(index))
		}
	}
}

func (w *walker) slice(node *yaml.Node, path string, v reflect.Value) {
	if node.Kind != yaml.SequenceNode {
		w.report(node, path, "want a list here")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content))
	for i, item := range node.Content {
		w.value(item, fmt.Sprintf("%s[%d]", path, i), list.Index(i))
	}
	v.Set(list)
}

func (w *walker) mapping(node *yaml.Node, path string, v reflect.Value) {
	if node.Kind != yaml.MappingNode {
		w.report(node, path, "want keys with values here")
		return
	}
	m := reflect.MakeMap(v.Type())
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := reflect.New(v.Type().Key()).Elem()
		w.value(node.Content[i], path, key)
		value := reflect.New(v.Type().Elem()).Elem()
		w.value(node.Content[i+1], join(path, node.Content[i].Value), value)
		m.SetMapIndex(key, value)
	}
	v.Set(m)
}

// check calls the Check methods from the outside in.
func (w *walker) check(path string, into any, node *yaml.Node) {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return
	}
	if c, ok := into.(Checker); ok {
		c.Check(func(key, format string, args ...any) {
			w.report(cmp.Or(child(node, key), node), join(path, key), format, args...)
		})
	}
	for name, index := range fieldsOf(v.Elem().Type()) {
		field := v.Elem().Field(index)
		switch field.Kind() {
		case reflect.Struct:
			w.check(join(path, name), field.Addr().Interface(), child(node, name))
		case reflect.Pointer:
			w.check(join(path, name), field.Interface(), child(node, name))
		case reflect.Slice:
			for i := range field.Len() {
				if item := field.Index(i); item.Kind() == reflect.Struct {
					w.check(fmt.Sprintf("%s[%d]", join(path, name), i), item.Addr().Interface(), nil)
				}
			}
		}
	}
}

// child finds the value of a key, for its line.
func child(node *yaml.Node, key string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

// fieldsOf gives the index of each exported field by its key.
func fieldsOf(t reflect.Type) map[string]int {
	fields := map[string]int{}
	for i := range t.NumField() {
		if key := keyOf(t.Field(i)); key != "" {
			fields[key] = i
		}
	}
	return fields
}

// keyOf gives the key that a field is read under; "" where it is not.
func keyOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if !f.IsExported() || name == "-" {
		return ""
	}
	return name
}

func join(path, key string) string {
	switch {
	case path == "":
		return key
	case key == "":
		return path
	default:
		return path + "." + key
	}
}

func describe(kind reflect.Kind) string {
	switch kind {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text"
	case reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return "a whole number"
	}
}

// suggest names the nearest known key, or all of them when none is near.
func suggest(key string, fields map[string]int) string {
	best, bestDistance := "", min(3, (len(key)+1)/2+1)
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
		if d := distance(key, name); d < bestDistance || (d == bestDistance && name < best) {
			best, bestDistance = name, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	slices.Sort(names)
	return "; known here: " + strings.Join(names, ", ")
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
