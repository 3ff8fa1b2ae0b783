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
	shape := len(appendShape([]byte(stateMagic), training.net.tensors))
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
		"resume with --batch 65":   {sealed(state, func(b []byte) []byte { b[shape+8] = 65; return b }), fault.Invalid},
		"learning rate 0 cannot":   {sealed(state, func(b []byte) []byte { clear(b[shape+12 : shape+20]); return b }), fault.Corrupt},
		"step -1, position":        {sealed(state, func(b []byte) []byte { binary.LittleEndian.PutUint64(b[shape+20:], 1<<64-1); return b }), fault.Corrupt},
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
