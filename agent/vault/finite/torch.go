package finite

import (
	"archive/zip"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	zipMagic   = "PK\x03\x04"
	maxEntries = 1 << 20
)

// torchKind is the type of a storage, by PyTorch's class of it, and its bytes. A
// complex value is two.
func torchKind(storage global) (k kind, valueBytes int64) {
	name, ok := strings.CutPrefix(string(storage), "torch ")
	if !ok {
		return kind{}, 0
	}
	switch strings.TrimSuffix(name, "Storage") {
	case "Double":
		return kindOf("F64"), 8
	case "Float":
		return kindOf("F32"), 4
	case "Half":
		return kindOf("F16"), 2
	case "BFloat16":
		return kindOf("BF16"), 2
	case "ComplexDouble":
		return kindOf("F64"), 16
	case "ComplexFloat":
		return kindOf("F32"), 8
	}
	return kind{}, 0
}

// torchFile finds the tensors of a file that torch.save wrote, 1.6 and later: a zip
// archive of stored entries, data.pkl with the object and data/<key> with each
// storage. https://pytorch.org/docs/stable/notes/serialization.html. Only what
// tensors are made of is looked at: the rest of a storage was perhaps never
// written to.
func torchFile(in io.ReaderAt, sizeBytes int64) (layout, error) {
	archive, err := zip.NewReader(in, sizeBytes)
	if err != nil {
		return layout{}, fault.Mark(fault.Corrupt, err)
	}
	if len(archive.File) > maxEntries {
		return layout{}, fault.New(fault.Exhausted, "it has %d entries", len(archive.File))
	}
	entries := map[string]*zip.File{}
	object := ""
	for _, f := range archive.File {
		entries[f.Name] = f
		if strings.HasSuffix(f.Name, "/data.pkl") && strings.Count(f.Name, "/") == 1 {
			object = strings.TrimSuffix(f.Name, "data.pkl")
		}
	}
	if object == "" {
		return layout{}, fault.New(fault.Unsupported, "it is a zip archive of something else")
	}
	if order, err := readEntry(entries[object+"byteorder"]); err == nil && strings.TrimSpace(string(order)) != "little" {
		return layout{}, fault.New(fault.Unsupported, "its byte order is %q", order)
	}
	pickle, err := readEntry(entries[object+"data.pkl"])
	if err != nil {
		return layout{}, err
	}
	root, err := unpickle(pickle)
	if err != nil {
		return layout{}, err
	}
	f := &found{entries: entries, prefix: object + "data/", seen: map[any]bool{}}
	if err := f.walk(root, "", 0); err != nil {
		return layout{}, err
	}
	return layout{"pytorch", f.apart()}, nil
}

func readEntry(f *zip.File) ([]byte, error) {
	if f == nil {
		return nil, fault.New(fault.Corrupt, "an entry is missing")
	}
	if f.UncompressedSize64 > maxHeaderBytes {
		return nil, fault.New(fault.Exhausted, "entry %q has %d bytes", f.Name, f.UncompressedSize64)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fault.Mark(fault.Corrupt, err)
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(io.LimitReader(r, maxHeaderBytes))
	return data, fault.Mark(fault.Corrupt, err)
}

// found is the tensors that a walk through an object finds.
type found struct {
	entries map[string]*zip.File
	prefix  string
	seen    map[any]bool
	visits  int
	tensors []tensor
}

// walk looks into what a pickle holds, naming each by the way to it.
func (f *found) walk(v any, path string, depth int) error {
	// A tuple may be in many places: a small pickle can hold an endless object.
	if f.visits++; depth > maxPickleDepth || f.visits > maxPickleValues {
		return fault.New(fault.Exhausted, "its object is nested too deep, or holds too much")
	}
	switch v := v.(type) {
	case *dict:
		if f.seen[v] {
			return nil
		}
		f.seen[v] = true
		for i := 0; i+1 < len(v.of); i += 2 {
			if err := f.walk(v.of[i+1], join(path, v.of[i]), depth+1); err != nil {
				return err
			}
		}
	case *list:
		if f.seen[v] {
			return nil
		}
		f.seen[v] = true
		return f.walkAll(v.of, path, depth)
	case []any:
		return f.walkAll(v, path, depth)
	case *made:
		if f.seen[v] {
			return nil
		}
		f.seen[v] = true
		if strings.HasPrefix(string(v.by), "torch._utils _rebuild_tensor") {
			return f.tensor(v, path)
		}
		return f.walkAll(v.with, path, depth) // a parameter, an object with its state
	}
	return nil
}

func (f *found) walkAll(all []any, path string, depth int) error {
	for i, v := range all {
		key := any(int64(i))
		if len(all) == 1 {
			key = ""
		}
		if err := f.walk(v, join(path, key), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func join(path string, key any) string {
	text := ""
	switch key := key.(type) {
	case string:
		text = key
	case int64:
		text = fmt.Sprint(key)
	}
	if path == "" || text == "" {
		return path + text
	}
	return path + "." + text
}

// tensor notes where a tensor's values lie: _rebuild_tensor_v2(storage, offset,
// size, stride, ...). One that leaves gaps between its values, as a column of a
// matrix does, is not looked at.
func (f *found) tensor(m *made, path string) error {
	if len(m.with) < 4 {
		return nil
	}
	storage, _ := m.with[0].(persist)
	id, _ := storage.id.([]any)
	if len(id) < 5 { // "storage", class, key, location, number of values
		return nil
	}
	class, _ := id[1].(global)
	key, _ := id[2].(string)
	offset, ok := m.with[1].(int64)
	k, valueBytes := torchKind(class)
	values, dense := extent(m.with[2], m.with[3])
	if k.bytes == 0 || !ok || !dense || values == 0 || offset < 0 {
		return nil
	}
	entry := f.entries[f.prefix+key]
	if entry == nil || entry.Method != zip.Store {
		return fault.New(fault.Corrupt, "storage %q of tensor %q is missing", key, path)
	}
	start, err := entry.DataOffset()
	if err != nil {
		return fault.Mark(fault.Corrupt, err)
	}
	if offset > int64(entry.UncompressedSize64)/valueBytes || values > int64(entry.UncompressedSize64)/valueBytes-offset {
		return fault.New(fault.Corrupt, "tensor %q reaches past its storage", path)
	}
	start += offset * valueBytes
	f.tensors = append(f.tensors, tensor{path, start, start + values*valueBytes, k})
	return nil
}

// extent gives the number of values, and whether they lie without gaps.
func extent(sizes, strides any) (values int64, dense bool) {
	size, _ := sizes.([]any)
	stride, _ := strides.([]any)
	if len(size) != len(stride) {
		return 0, false
	}
	values, reach := int64(1), int64(1)
	for i := range size {
		n, ok := size[i].(int64)
		s, okStride := stride[i].(int64)
		if !ok || !okStride || n < 0 || s < 0 || n > 1<<40 || s > 1<<40 || values > 1<<40 {
			return 0, false
		}
		if n == 0 {
			return 0, true
		}
		values, reach = values*n, reach+(n-1)*s
	}
	return values, values == reach
}

// apart gives the tensors in the order of the file, none of two that share values
// twice.
func (f *found) apart() (apart []tensor) {
	slices.SortStableFunc(f.tensors, func(a, b tensor) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end)) })
	end := int64(0)
	for _, t := range f.tensors {
		if t.start < end {
			over := end - t.start
			t.start += (over + int64(t.kind.bytes) - 1) / int64(t.kind.bytes) * int64(t.kind.bytes)
		}
		if t.start < t.end {
			apart, end = append(apart, t), t.end
		}
	}
	return apart
}
