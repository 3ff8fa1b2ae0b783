package multitask

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
)

// StateFile is the name of the one file of a checkpoint.
const StateFile = "state.vmt"

// The state file, version 1. Integers are little-endian.
//
//	magic         8 bytes  "VIGILMT\x00"
//	version       uint32   1
//	tensors       uint32   number of tensors
//	  each:       uint8 length of the name, the name, uint32 rows, uint32 cols
//	seed          uint64
//	batch         uint32   samples a step
//	learning rate float64
//	step          int64    steps applied
//	data position int64    samples consumed
//	random        2 uint64 state of the PCG behind the last applied step
//	parameters    float32 of every tensor in turn
//	mean          float32, the same number: Adam's first moment
//	variance      float32, the same number: Adam's second moment
//	digest        32 bytes SHA-256 of all before it
const (
	stateMagic   = "VIGILMT\x00"
	stateVersion = 1
	pcgPrefix    = "pcg:" // of rand.PCG's own encoding
	pcgBytes     = 16
	floatBytes   = 4
)

// State gives the training as it stands behind the last applied step.
func (t *Training) State() ([]byte, error) {
	b := append(make([]byte, 0, 512+3*floatBytes*len(t.net.parameters)), stateMagic...)
	b = appendShape(b, t.net.tensors)
	b = binary.LittleEndian.AppendUint64(b, t.config.Seed)
	b = binary.LittleEndian.AppendUint32(b, uint32(t.config.Batch))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(t.config.LearningRate))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.step))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.drawn))
	random, err := t.random.MarshalBinary()
	if err != nil || len(random) != len(pcgPrefix)+pcgBytes {
		return nil, fmt.Errorf("encode random state of %d bytes: %w", len(random), err)
	}
	b = append(b, random[len(pcgPrefix):]...)
	for _, values := range [][]float32{t.net.parameters, t.adam.mean, t.adam.variance} {
		b = appendFloats(b, values)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

func appendShape(b []byte, list []tensor) []byte {
	b = binary.LittleEndian.AppendUint32(b, stateVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(list)))
	for _, t := range list {
		b = append(b, uint8(len(t.name)))
		b = append(b, t.name...)
		b = binary.LittleEndian.AppendUint32(b, uint32(t.rows))
		b = binary.LittleEndian.AppendUint32(b, uint32(t.cols))
	}
	return b
}

// Restore goes on from a state; seed and learning rate come from it. It fails
// with fault.Corrupt when the state is damaged and with fault.Invalid when it
// is sound and of another model or batch size; the training is then as it was
// before.
func (t *Training) Restore(state []byte) error {
	version := len(stateMagic) // offset of the version
	switch {
	case !bytes.HasPrefix(state, []byte(stateMagic)):
		return fault.New(fault.Corrupt, "read training state: it does not begin as one; is it a %s file?", Format)
	case len(state) < version+4+sha256.Size:
		return fault.New(fault.Corrupt, "read training state: it ends after %d bytes", len(state))
	}
	body, digest := state[:len(state)-sha256.Size], state[len(state)-sha256.Size:]
	if got := binary.LittleEndian.Uint32(body[version:]); got != stateVersion {
		return fault.New(fault.Invalid, "read training state: it is of version %d; this program reads version %d", got, stateVersion)
	}
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], digest) {
		return fault.New(fault.Corrupt, "read training state: its digest does not agree with its %d bytes; it is damaged or cut short", len(state))
	}
	shape := appendShape([]byte(stateMagic), t.net.tensors)
	if !bytes.HasPrefix(body, shape) {
		return fault.New(fault.Invalid, "read training state: it is of another model")
	}
	return t.restoreBody(body[len(shape):])
}

func (t *Training) restoreBody(rest []byte) error {
	const fixed = 8 + 4 + 8 + 8 + 8 + pcgBytes
	floats := floatBytes * len(t.net.parameters)
	if want := fixed + 3*floats; len(rest) != want {
		return fault.New(fault.Corrupt, "read training state: %d bytes behind the shape, want %d", len(rest), want)
	}
	config := Config{
		Seed:         binary.LittleEndian.Uint64(rest),
		Batch:        int(binary.LittleEndian.Uint32(rest[8:])),
		LearningRate: math.Float64frombits(binary.LittleEndian.Uint64(rest[12:])),
		// Not of the state: it may be another from one attempt to the next.
		LabelSmoothing: t.config.LabelSmoothing,
	}
	step := int64(binary.LittleEndian.Uint64(rest[20:]))
	drawn := int64(binary.LittleEndian.Uint64(rest[28:]))
	switch {
	case config.Batch != t.config.Batch:
		return fault.New(fault.Invalid, "read training state: it was made with batches of %d, this training has %d; resume with --batch %d",
			config.Batch, t.config.Batch, config.Batch)
	case step < 0 || drawn < 0 || !(config.LearningRate > 0) || math.IsInf(config.LearningRate, 0):
		return fault.New(fault.Corrupt, "read training state: step %d, position %d, learning rate %v cannot be", step, drawn, config.LearningRate)
	}
	random := append([]byte(pcgPrefix), rest[36:fixed]...)
	if err := t.random.UnmarshalBinary(random); err != nil {
		return fault.Mark(fault.Corrupt, fmt.Errorf("read training state: random state: %w", err))
	}
	t.config, t.step, t.drawn = config, step, drawn
	rest = rest[fixed:]
	for i, values := range [][]float32{t.net.parameters, t.adam.mean, t.adam.variance} {
		readFloats(values, rest[i*floats:])
	}
	return nil
}

func readFloats(into []float32, from []byte) {
	for i := range into {
		into[i] = math.Float32frombits(binary.LittleEndian.Uint32(from[i*floatBytes:]))
	}
}
