package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/fault"
)

func messages() []Message {
	return []Message{
		&Request{},
		&Request{Seq: 1 << 40, Skip: []int{3}, Last: []int{Library, 5}, PIDs: []int64{1, 4194304}},
		&Series{Ref: 7, Def: 60, GPU: 127, Labels: []string{"0", "", "ä"}},
		&Series{GPU: Library},
		&Values{GPU: 2, Refs: []uint32{1, 2, math.MaxUint32}, Values: []float64{0, -1.5, math.Inf(1)}, Gone: []uint32{9}},
		&Values{},
		&XID{GPU: 1, Number: 79, PCI: "00000000:3B:00.0"},
		&Slow{GPU: Library, Call: "nvmlInit"},
		&Done{Seq: 5, Outcome: Failed, GPUs: 8, Err: "measure GPU 1: unknown error"},
	}
}

func TestEveryMessageComesBack(t *testing.T) {
	var buf []byte
	for _, m := range messages() {
		buf = Append(buf, m)
	}
	r := NewReader(bytes.NewReader(buf))
	for _, want := range messages() {
		got, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestDamageIsAnError(t *testing.T) {
	whole := Append(nil, &Series{Ref: 1, Def: 2, GPU: 3, Labels: []string{"label"}})
	for cut := 1; cut < len(whole); cut++ {
		if _, err := NewReader(bytes.NewReader(whole[:cut])).Next(); err == nil {
			t.Errorf("a frame that was cut at %d was read", cut)
		}
	}
	for name, data := range map[string][]byte{
		"no type":        {0, 0, 0, 0},
		"too large":      {0xff, 0xff, 0xff, 0x7f},
		"unknown type":   {1, 0, 0, 0, 99},
		"too much":       {4, 0, 0, 0, 5, 0, 0, 0},
		"text too long":  {3, 0, 0, 0, 5, 0, 9},
		"list too long":  {4, 0, 0, 0, 1, 0, 0xff, 0x01},
		"endless number": append([]byte{12, 0, 0, 0, 6}, bytes.Repeat([]byte{0xff}, 11)...),
	} {
		if m, err := NewReader(bytes.NewReader(data)).Next(); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

func TestLongTextIsCut(t *testing.T) {
	buf := Append(nil, &Done{Err: strings.Repeat("x", 2*maxFrame)})
	m, err := NewReader(bytes.NewReader(buf)).Next()
	if err != nil || len(m.(*Done).Err) != maxFrame/4 {
		t.Errorf("%v", err)
	}
}

func FuzzReader(f *testing.F) {
	for _, m := range messages() {
		f.Add(Append(nil, m))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		for {
			m, err := r.Next()
			if err != nil {
				return
			}
			again, err := NewReader(bytes.NewReader(Append(nil, m))).Next()
			if err != nil {
				t.Fatalf("%#v does not come back: %v", m, err)
			}
			if !bytes.Equal(Append(nil, m), Append(nil, again)) {
				t.Errorf("%#v comes back as %#v", m, again)
			}
		}
	})
}
