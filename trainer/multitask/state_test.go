package multitask

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
)

func stateOf(t testing.TB, training *Training) []byte {
	t.Helper()
	state, err := training.State()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// sealed gives a changed state a digest that agrees again.
func sealed(state []byte, change func([]byte) []byte) []byte {
	body := change(bytes.Clone(state[:len(state)-sha256.Size]))
	sum := sha256.Sum256(body)
	return append(body, sum[:]...)
}

func TestDamagedStatesAreRefusedAndChangeNothing(t *testing.T) {
	training := begin(t, nil)
	train(t, training, 3)
	state, digest := stateOf(t, training), training.Digest()
	list, _ := training.tensors()
	shape := len(appendShape([]byte(stateMagic), list))
	words := func(from, to string) []byte {
		return sealed(state, func(b []byte) []byte {
			length := int(binary.LittleEndian.Uint32(b[shape:]))
			text := bytes.Replace(b[shape+4:shape+4+length], []byte(from), []byte(to), 1)
			head := binary.LittleEndian.AppendUint32(bytes.Clone(b[:shape]), uint32(len(text)))
			return append(append(head, text...), b[shape+4+length:]...)
		})
	}
	flip := func(at int) []byte {
		b := bytes.Clone(state)
		b[at] ^= 1
		return b
	}
	for want, c := range map[string]struct {
		state []byte
		kind  fault.Kind
	}{
		"does not begin as one":    {flip(0), fault.Corrupt},
		"ends after 8 bytes":       {state[:8], fault.Corrupt},
		"is of version":            {flip(8), fault.Invalid},
		"digest does not agree":    {flip(len(state) / 2), fault.Corrupt},
		"is damaged or cut short":  {state[:len(state)-1], fault.Corrupt},
		"of another model":         {sealed(state, func(b []byte) []byte { b[20] ^= 1; return b }), fault.Invalid},
		"bytes behind the shape":   {sealed(state, func(b []byte) []byte { return append(b, 0) }), fault.Corrupt},
		"resume with --batch 65":   {words(`"batch":64`, `"batch":65`), fault.Invalid},
		"learning rate 0 cannot":   {words(`"learning_rate":0.001`, `"learning_rate":0`), fault.Corrupt},
		"step -1, position":        {words(`"step":3`, `"step":-1`), fault.Corrupt},
		"weighed by nash":          {words(`"equal"`, `"nash"`), fault.Invalid},
		"of another method":        {words(`"balance":[`, `"balance":[7,`), fault.Invalid},
		"not as this program":      {words(`"seed":1`, `"seed":1.0`), fault.Corrupt},
		"is it a vigil-multitask/": {nil, fault.Corrupt},
	} {
		if err := training.Restore(c.state); !fault.Is(err, c.kind) || !strings.Contains(err.Error(), want) {
			t.Errorf("Restore = %v, want %v with %q", err, c.kind, want)
		}
		if training.Digest() != digest || training.Step() != 3 {
			t.Fatalf("%s: the training is not as it was", want)
		}
	}
	if err := training.Restore(state); err != nil {
		t.Errorf("Restore of the good state = %v", err)
	}
}

// FuzzRestore gives arbitrary bytes in place of a state's, with a digest that
// agrees so that they get past it. What is accepted must come out again.
func FuzzRestore(f *testing.F) {
	training := begin(f, nil)
	state := stateOf(f, training)
	f.Add(state[:len(state)-sha256.Size])
	f.Add([]byte(stateMagic))
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body)
		given := append(bytes.Clone(body), sum[:]...)
		if err := training.Restore(given); err != nil {
			if !fault.Is(err, fault.Corrupt) && !fault.Is(err, fault.Invalid) {
				t.Errorf("Restore = %v", err)
			}
			return
		}
		if !bytes.Equal(stateOf(t, training), given) {
			t.Error("a state that was accepted does not come out again")
		}
	})
}
