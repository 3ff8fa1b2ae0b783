package finite

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/testkit"
)

// look gives what a scanner finds when the bytes come in pieces of a size.
func look(data []byte, piece int) (Result, bool) {
	s := New(bytes.NewReader(data), int64(len(data)))
	for len(data) > 0 {
		n := min(piece, len(data))
		_, _ = s.Write(data[:n])
		data = data[n:]
	}
	return s.Result()
}

func safetensor(header string, data ...byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func floats(values ...float32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func TestSafetensors(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	two := `{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},` +
		`"b":{"dtype":"%s","shape":[4],"data_offsets":[12,20]}}`
	tests := map[string]struct {
		data []byte
		want Result
	}{
		"finite":     {safetensor(fmt.Sprintf(two, "F16"), append(floats(1, -2, math.MaxFloat32), 0xff, 0x7b, 0, 0, 1, 0, 2, 0)...), Result{Values: 7}},
		"nan":        {safetensor(fmt.Sprintf(two, "F16"), append(floats(1, nan, 3), make([]byte, 8)...)...), Result{Values: 7, NaN: 1, First: "a"}},
		"infinite":   {safetensor(fmt.Sprintf(two, "F16"), append(floats(1, 2, inf), make([]byte, 8)...)...), Result{Values: 7, Inf: 1, First: "a"}},
		"half":       {safetensor(fmt.Sprintf(two, "F16"), append(floats(1, 2, 3), 0, 0x7c, 1, 0x7c, 0, 0xfc, 0, 0)...), Result{Values: 7, NaN: 1, Inf: 2, First: "b"}},
		"brain":      {safetensor(fmt.Sprintf(two, "BF16"), append(floats(1, 2, 3), 0x80, 0x7f, 0xc0, 0x7f, 0, 0x7c, 0, 0)...), Result{Values: 7, NaN: 1, Inf: 1, First: "b"}},
		"eight bits": {safetensor(fmt.Sprintf(two, "F8_E4M3"), append(floats(1, 2, 3), 0x7f, 0xff, 0x7e, 0x78, 0, 0, 0, 0)...), Result{Values: 11, NaN: 2, First: "b"}},
		"and five":   {safetensor(fmt.Sprintf(two, "F8_E5M2"), append(floats(1, 2, 3), 0x7c, 0xff, 0x7b, 0, 0, 0, 0, 0)...), Result{Values: 11, NaN: 1, Inf: 1, First: "b"}},
		"integers":   {safetensor(fmt.Sprintf(two, "I16"), append(floats(1, 2, 3), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)...), Result{Values: 3}},
		"double":     {safetensor(fmt.Sprintf(two, "F64"), append(floats(1, 2, 3), 0, 0, 0, 0, 0, 0, 0xf0, 0x7f)...), Result{Values: 4, Inf: 1, First: "b"}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			c.want.Format = "safetensors"
			for _, piece := range []int{1, 3, 7, 64, 1 << 20} {
				got, ok := look(c.data, piece)
				if diff := cmp.Diff(c.want, got); !ok || diff != "" {
					t.Errorf("in pieces of %d: %v (-want +got):\n%s", piece, ok, diff)
				}
			}
		})
	}
}

// What is not known, or lies about itself, is not looked at.
func TestOthers(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty":             {},
		"text":              []byte("these are no weights"),
		"zip":               []byte("PK\x03\x04" + strings.Repeat("\xff", 100)),
		"beyond the file":   safetensor(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}`, 1, 2, 3, 4),
		"backwards":         safetensor(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[8,4]}}`, make([]byte, 12)...),
		"no JSON":           safetensor(`{"a":`, make([]byte, 12)...),
		"huge header":       append(binary.LittleEndian.AppendUint64(nil, 1<<40), '{'),
		"cut in the header": safetensor(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}`)[:30],
		"big-endian array":  []byte(npyMagic + "\x01\x00\x3a\x00{'descr': '>f4', 'fortran_order': False, 'shape': (1,), } \n" + "\x7f\xc0\x00\x00"),
		"other trainer":     []byte(multitaskMagic + "\x03\x00\x00\x00\x00\x00\x00\x00"),
	} {
		if got, ok := look(data, 5); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// The second version of the reference trainer's file, with a NaN in its second
// tensor.
func TestMultitaskVersion2(t *testing.T) {
	data := []byte(multitaskMagic + "\x02\x00\x00\x00\x02\x00\x00\x00" +
		"\x01w\x02\x00\x00\x00\x01\x00\x00\x00" + "\x01b\x01\x00\x00\x00\x01\x00\x00\x00" + "\x05\x00\x00\x00{  \n}")
	data = append(append(data, floats(1, 2, float32(math.NaN()))...), make([]byte, multitaskDigest)...)
	for piece := range len(data) {
		got, ok := look(data, piece+1)
		if diff := cmp.Diff(Result{Format: "vigil-multitask/2", Values: 3, NaN: 1, First: "b"}, got); !ok || diff != "" {
			t.Fatalf("in pieces of %d: %v (-want +got):\n%s", piece+1, ok, diff)
		}
	}
}

func TestNumPyArray(t *testing.T) {
	header := "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"
	header += strings.Repeat(" ", 117-len(header)) + "\n"
	data := append([]byte(npyMagic+"\x01\x00\x76\x00"+header), floats(1, float32(math.Inf(1)), float32(math.NaN()))...)
	got, ok := look(data, 9)
	if diff := cmp.Diff(Result{Format: "npy", Values: 3, NaN: 1, Inf: 1, First: "array"}, got); !ok || diff != "" {
		t.Errorf("%v (-want +got):\n%s", ok, diff)
	}
}

// Files that NumPy itself wrote.
func TestNumPysOwnFiles(t *testing.T) {
	// Debian's, which has python3-numpy; another python3 may come first on the path.
	python := testkit.Require(t, "/usr/bin/python3")
	dir := t.TempDir()
	script := `import numpy as n, sys
for d in "f2", "f4", "f8", "i4":
    a = n.ones((37, 11), d)
    if d != "i4": a[3, 4] = n.nan; a[36, 10] = n.inf
    n.save(sys.argv[1] + "/" + d + ".npy", a)`
	if out, err := exec.Command(python, "-c", script, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]Result{
		"f2": {Format: "npy", Values: 407, NaN: 1, Inf: 1, First: "array"},
		"f4": {Format: "npy", Values: 407, NaN: 1, Inf: 1, First: "array"},
		"f8": {Format: "npy", Values: 407, NaN: 1, Inf: 1, First: "array"},
		"i4": {Format: "npy"},
	} {
		data, err := os.ReadFile(filepath.Join(dir, name+".npy"))
		if err != nil {
			t.Fatal(err)
		}
		got, ok := look(data, 100)
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, ok, diff)
		}
	}
}

// The fast look and the slow count agree on any bytes.
func TestCleanIsCountOfNone(t *testing.T) {
	source := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		k := kindOf([]string{"F64", "F32", "BF16", "F16", "F8_E5M2", "F8_E4M3"}[source.IntN(6)])
		data := make([]byte, 8*(1+source.IntN(9)))
		for i := range data {
			data[i] = byte(source.Uint32())
			if source.IntN(3) > 0 {
				data[i] = []byte{0x7f, 0xff, 0x80, 0x7c, 0xf0}[source.IntN(5)]
			}
		}
		if nan, inf := k.count(data); k.clean(data) != (nan+inf == 0) {
			t.Fatalf("%d bytes a value, %x: clean is %v, counted %d and %d", k.bytes, data, k.clean(data), nan, inf)
		}
	}
}

func FuzzScanner(f *testing.F) {
	f.Add(safetensor(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}`, floats(1, 2, 3)...), 3)
	f.Add([]byte(npyMagic+"\x01\x00\x3a\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } \n\x00\x00\xc0\x7f"), 5)
	f.Add([]byte(multitaskMagic+"\x01\x00\x00\x00\x01\x00\x00\x00\x01w\x01\x00\x00\x00\x01\x00\x00\x00"+strings.Repeat("\x00", 96)), 11)
	f.Add([]byte(multitaskMagic+"\x02\x00\x00\x00\x01\x00\x00\x00\x01w\x01\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00{}"+strings.Repeat("\x00", 36)), 11)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		whole, known := look(data, max(len(data), 1))
		parts, also := look(data, max(piece, 1))
		if known != also || whole != parts {
			t.Fatalf("whole: %+v %v; in pieces of %d: %+v %v", whole, known, piece, parts, also)
		}
		if whole.NaN+whole.Inf > whole.Values {
			t.Fatalf("%+v", whole)
		}
	})
}

func BenchmarkScanner(b *testing.B) {
	header := `{"a":{"dtype":"F32","shape":[4194304],"data_offsets":[0,16777216]}}`
	data := safetensor(header, bytes.Repeat(floats(0.5), 4<<20)...)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if got, ok := look(data, 1<<20); !ok || got.NaN > 0 || got.Values != 4<<20 {
			b.Fatalf("%+v %v", got, ok)
		}
	}
}
