package finite

import (
	"archive/zip"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/testkit"
)

// pythonTorch is Debian's Python, which has Debian's torch; VIGIL_PYTHON another.
func pythonTorch(t *testing.T) string {
	t.Helper()
	python := os.Getenv("VIGIL_PYTHON")
	if python == "" {
		python = testkit.Require(t, "/usr/bin/python3")
	}
	if exec.Command(python, "-c", "import torch").Run() != nil {
		t.Skip("this Python has no torch")
	}
	return python
}

// What PyTorch itself writes is looked at, tensor by tensor, and only what is part
// of a tensor.
func TestTorchSave(t *testing.T) {
	python, dir := pythonTorch(t), t.TempDir()
	script := `import sys, torch
nan, inf = float("nan"), float("inf")
def save(name, o): torch.save(o, sys.argv[1] + "/" + name)
def state(): return {"states": {"model": {"w": torch.ones(300, 400), "b": torch.ones(7, dtype=torch.float16), "n": torch.arange(5)}},
    "optimizer": [{"m": torch.zeros(3, dtype=torch.float64)}], "p": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), "step": 5, "lr": 0.1, "tie": None}
save("finite", state())
s = state(); s["states"]["model"]["w"][17, 3] = nan; save("nan", s)
s = state(); s["optimizer"][0]["m"][1] = inf; s["states"]["model"]["b"][0] = -inf; save("infinite", s)
s = state(); s["p"].data[1] = nan; save("parameter", s)
base = torch.ones(10); base[0] = nan; base[9] = nan; save("view", {"v": base[2:7]})
base = torch.ones(4, 5); base[1, 2] = nan; save("transposed", {"v": base.t()})
base = torch.ones(4, 5); base[1, 2] = nan; save("column", {"v": base[:, 1], "w": torch.ones(3)})
w = torch.ones(6); w[2] = nan; save("tied", {"a": w, "b": w, "c": w.view(2, 3)})
m = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)); m[1].running_var[2] = inf; save("module", m.state_dict())
o = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))]); save("empty optimizer", o.state_dict())
torch.save({"w": torch.tensor([1.0, nan])}, sys.argv[1] + "/legacy", _use_new_zipfile_serialization=False)
`
	if out, err := exec.Command(python, "-c", script, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const all = 300*400 + 7 + 3 + 2
	for name, want := range map[string]Result{
		"finite":          {Format: "pytorch", Values: all},
		"nan":             {Format: "pytorch", Values: all, NaN: 1, First: "states.model.w"},
		"infinite":        {Format: "pytorch", Values: all, Inf: 2, First: "states.model.b"},
		"parameter":       {Format: "pytorch", Values: all, NaN: 1, First: "p"},
		"view":            {Format: "pytorch", Values: 5},
		"transposed":      {Format: "pytorch", Values: 20, NaN: 1, First: "v"},
		"column":          {Format: "pytorch", Values: 3},
		"tied":            {Format: "pytorch", Values: 6, NaN: 1, First: "a"},
		"module":          {Format: "pytorch", Values: 12 + 4 + 4 + 4 + 4 + 4, Inf: 1, First: "1.running_var"},
		"empty optimizer": {Format: "pytorch"},
		"legacy":          {},
	} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{1, 4096, len(data)} {
			got, known := look(data, piece)
			if strings.HasPrefix(got.First, "p.") {
				got.First = "p" // a parameter is made of its tensor
			}
			if known != (want.Format != "") {
				t.Errorf("%s: looked at %v", name, known)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s in pieces of %d (-want +got):\n%s", name, piece, diff)
			}
		}
	}
}

// archive is a file as torch.save lays it out, with an object of the test's own.
func archive(t testing.TB, pickle string, storages map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	add := func(name string, data []byte) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: "a/" + name, Method: zip.Store})
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add("data.pkl", []byte(pickle))
	for name, data := range storages {
		add("data/"+name, data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// oneTensor is the pickle of a tensor of n values from an offset on in storage 0.
func oneTensor(offset, n byte) string {
	return "\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQ" +
		"K" + string([]byte{offset}) + "K" + string([]byte{n}) + "\x85K\x01\x85\x89}tR."
}

// Hostile files are not looked at, quickly, and nothing of them is run.
func TestHostileTorch(t *testing.T) {
	values := map[string][]byte{"0": floats(1, 2, 3, 4, 5, 6, 7, 8)}
	if got, ok := look(archive(t, oneTensor(2, 6), values), 100); !ok || got.Values != 6 {
		t.Fatalf("the well-formed one: %+v, %v", got, ok)
	}
	nested := "\x80\x02)" // a tuple of the last tuple twice, and so on: endless to walk
	for range 64 {
		nested += "q\x002h\x00\x86"
	}
	for name, data := range map[string][]byte{
		"calls":             archive(t, "\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR.", nil),
		"past its storage":  archive(t, oneTensor(4, 6), values),
		"no such storage":   archive(t, oneTensor(0, 8), nil),
		"no object":         archive(t, "", values),
		"unknown opcode":    archive(t, "\x80\x02\xff.", nil),
		"ends early":        archive(t, oneTensor(0, 8)[:40], values),
		"refers to nothing": archive(t, "\x80\x02h\x05.", nil),
		"pops nothing":      archive(t, "\x80\x020.", nil),
		"a text of 2^63":    archive(t, "\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", nil),
		"endless to walk":   archive(t, nested+".", nil),
		"nested lists":      archive(t, "\x80\x02"+strings.Repeat("]", 5000)+strings.Repeat("a", 4999)+".", nil),
		"another zip archive": func() []byte {
			return bytes.ReplaceAll(archive(t, oneTensor(2, 6), values), []byte("data.pkl"), []byte("data.txt"))
		}(),
		"no zip archive": []byte(zipMagic + strings.Repeat("x", 200)),
	} {
		began := time.Now()
		got, known := look(data, 1000)
		if known && (got.Values != 0 || got.NaN != 0) {
			t.Errorf("%s: %+v", name, got)
		}
		if known && name != "calls" {
			t.Errorf("%s is taken for a known format", name)
		}
		if took := time.Since(began); took > 20*time.Second { // against hanging
			t.Errorf("%s took %s", name, took)
		}
	}
}

func FuzzTorch(f *testing.F) {
	f.Add([]byte(oneTensor(2, 6)))
	f.Add([]byte("\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94K\x01u."))
	f.Fuzz(func(t *testing.T, pickle []byte) {
		data := archive(t, string(pickle), map[string][]byte{"0": floats(1, 2, 3, 4, 5, 6, 7, 8)})
		if got, _ := look(data, 64); got.Values > 8 || got.NaN != 0 || got.Inf != 0 {
			t.Errorf("of eight finite values: %+v", got)
		}
	})
}
