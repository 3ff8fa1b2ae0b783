package finite

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// layout is where a file's tensors lie; without a format nothing is known.
type layout struct {
	format  string
	tensors []tensor
}

const (
	npyMagic       = "\x93NUMPY"
	multitaskMagic = "VIGILMT\x00"
	// multitaskFixed is the bytes between the shapes and the values in version 1 of
	// the reference trainer's file, and multitaskDigest those behind the values.
	multitaskFixed  = 8 + 4 + 8 + 8 + 8 + 16
	multitaskDigest = 32
)

// recognize reads a file's beginning. It asks for more where that is too short
// to tell.
func recognize(head []byte, sizeBytes int64) (l layout, more bool) {
	for _, read := range []func([]byte, int64) (layout, bool){multitask, npy, safetensors} {
		if l, more = read(head, sizeBytes); more || l.format != "" {
			return l, more
		}
	}
	return layout{}, false
}

// begins tells whether a beginning has a magic, or may yet turn out to have it.
func begins(head []byte, magic string) (has, more bool) {
	if len(head) < len(magic) {
		return false, strings.HasPrefix(magic, string(head))
	}
	return bytes.HasPrefix(head, []byte(magic)), false
}

// safetensors: https://huggingface.co/docs/safetensors: the length of a JSON
// object as a little-endian uint64, the object, and the tensors' bytes.
func safetensors(head []byte, sizeBytes int64) (layout, bool) {
	if len(head) < 9 {
		return layout{}, true
	}
	length := binary.LittleEndian.Uint64(head)
	if head[8] != '{' || length < 2 || length > maxHeaderBytes-8 || int64(length)+8 > sizeBytes {
		return layout{}, false
	}
	if uint64(len(head)-8) < length {
		return layout{}, true
	}
	var entries map[string]json.RawMessage
	if json.Unmarshal(head[8:8+length], &entries) != nil {
		return layout{}, false
	}
	l := layout{format: "safetensors"}
	start := int64(8 + length)
	for name, entry := range entries {
		var t struct {
			DType   string   `json:"dtype"`
			Offsets [2]int64 `json:"data_offsets"`
		}
		if name == "__metadata__" {
			continue
		}
		if json.Unmarshal(entry, &t) != nil || t.Offsets[0] < 0 || t.Offsets[1] < t.Offsets[0] || t.Offsets[1] > sizeBytes-start {
			return layout{}, false
		}
		l.tensors = append(l.tensors, tensor{name, start + t.Offsets[0], start + t.Offsets[1], kindOf(t.DType)})
	}
	return l, false
}

// npyDescr finds the type in the header of a .npy file, a Python dictionary:
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
var npyDescr = regexp.MustCompile(`'descr':\s*'([<>=|])([a-z])([0-9]+)'`)

func npy(head []byte, sizeBytes int64) (layout, bool) {
	has, more := begins(head, npyMagic)
	if !has {
		return layout{}, more
	}
	if len(head) < 12 {
		return layout{}, true
	}
	start := 10 + int64(binary.LittleEndian.Uint16(head[8:]))
	text := 10
	if head[6] >= 2 {
		start, text = 12+int64(binary.LittleEndian.Uint32(head[8:])), 12
	}
	if start > min(sizeBytes, maxHeaderBytes) {
		return layout{}, false
	}
	if int64(len(head)) < start {
		return layout{}, true
	}
	found := npyDescr.FindSubmatch(head[text:start])
	if found == nil || string(found[1]) == ">" {
		return layout{}, false
	}
	k := kind{}
	if width, err := strconv.Atoi(string(found[3])); err == nil && string(found[2]) == "f" {
		k = kindOf("F" + strconv.Itoa(8*width))
	}
	return layout{"npy", []tensor{{"array", start, sizeBytes, k}}}, false
}

// multitask reads the reference trainer's file. Version 1: the shapes, some
// numbers, and three times as many float32 as there are parameters. Version 2:
// the shapes, a length and as much JSON, and the float32 of every shape.
func multitask(head []byte, sizeBytes int64) (layout, bool) {
	has, more := begins(head, multitaskMagic)
	if !has {
		return layout{}, more
	}
	at := len(multitaskMagic)
	if len(head) < at+8 {
		return layout{}, true
	}
	version := binary.LittleEndian.Uint32(head[at:])
	if version != 1 && version != 2 {
		return layout{}, false
	}
	count := binary.LittleEndian.Uint32(head[at+4:])
	at += 8
	var shapes []tensor // with sizes for ends
	for range count {
		if len(head) < at+1 || len(head) < at+1+int(head[at])+8 {
			return layout{}, true
		}
		name := string(head[at+1 : at+1+int(head[at])])
		at += 1 + len(name)
		values := int64(binary.LittleEndian.Uint32(head[at:])) * int64(binary.LittleEndian.Uint32(head[at+4:]))
		at += 8
		shapes = append(shapes, tensor{name: name, end: 4 * values})
	}
	start, parts := int64(at+multitaskFixed), []string{"%s", "Adam's mean of %s", "Adam's variance of %s"}
	if version == 2 {
		if len(head) < at+4 {
			return layout{}, true
		}
		start, parts = int64(at+4)+int64(binary.LittleEndian.Uint32(head[at:])), parts[:1]
	}
	l := layout{format: fmt.Sprintf("vigil-multitask/%d", version)}
	for _, part := range parts {
		for _, shape := range shapes {
			if shape.end < 0 || start+shape.end > sizeBytes-multitaskDigest {
				return layout{}, false
			}
			l.tensors = append(l.tensors, tensor{fmt.Sprintf(part, shape.name), start, start + shape.end, kindOf("F32")})
			start += shape.end
		}
	}
	return l, false
}
