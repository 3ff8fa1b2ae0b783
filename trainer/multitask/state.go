package multitask

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/trainer/multitask/data"
	"github.com/vigil-ml/vigil/trainer/multitask/network"
)

// StateFile is the name of the one file of a checkpoint.
const StateFile = "state.vmt"

// The state file, version 2. Integers are little-endian.
//
//	magic         8 bytes  "VIGILMT\x00"
//	version       uint32   2
//	tensors       uint32   number of tensors: parameters, running statistics, and
//	                       what the optimizer remembers of each parameter
//	  each:       uint8 length of the name, the name, uint32 rows, uint32 cols
//	words         uint32   length of the next
//	              JSON     [words]: seed, step, position in the data, ...
//	values        float32 of every tensor in turn
//	digest        32 bytes SHA-256 of all before it
//
// Units that are dropped out, and the order of an epoch, follow from seed, step
// and position.
const (
	stateMagic   = "VIGILMT\x00"
	stateVersion = 2
	pcgPrefix    = "pcg:" // of rand.PCG's own encoding
	pcgBytes     = 16
	floatBytes   = 4
)

// words is what of a state is not tensors.
type words struct {
	Seed         uint64   `json:"seed"`
	Batch        int      `json:"batch"`
	Accumulate   int      `json:"accumulate"`
	LearningRate float64  `json:"learning_rate"`
	Step         int64    `json:"step"`
	DataPosition int64    `json:"data_position"`
	Random       []byte   `json:"random"` // state of the PCG behind the last applied step
	Method       string   `json:"method"`
	Balance      []uint64 `json:"balance"` // bits of what the method has learnt
	Best         float64  `json:"best"`    // held-out loss so far
	Bad          int      `json:"bad"`     // evaluations since
	// Encoding is the data's; states from before there was one have none.
	Encoding string `json:"encoding,omitempty"`
}

// tensors lists everything in a state, with where it lives.
func (t *Training) tensors() (list []network.Tensor, values [][]float32) {
	list = append(append(list, t.net.Tensors...), t.net.Buffers...)
	values = [][]float32{t.net.Parameters, t.net.Running}
	for i, slot := range t.optimizer.Slots() {
		for _, tensor := range t.net.Tensors {
			tensor.Name = slot + " of " + tensor.Name
			list = append(list, tensor)
		}
		values = append(values, t.optimizer.State()[i])
	}
	return list, values
}

// State gives the training as it stands behind the last applied step.
func (t *Training) State() ([]byte, error) {
	cursor := t.pipeline.Cursor()
	random, err := cursor.Random.MarshalBinary()
	if err != nil || len(random) != len(pcgPrefix)+pcgBytes {
		return nil, fmt.Errorf("encode random state of %d bytes: %w", len(random), err)
	}
	w := words{
		Seed: cursor.Seed, Batch: t.config.Batch, Accumulate: t.config.Accumulate, LearningRate: t.config.LearningRate,
		Step: t.step, DataPosition: cursor.Drawn, Random: random[len(pcgPrefix):],
		Method: t.balancer.Name(), Balance: make([]uint64, len(t.learnt)), Best: t.stop.Best, Bad: t.stop.Bad,
		Encoding: t.shape.Encoding,
	}
	for i, value := range t.learnt {
		w.Balance[i] = math.Float64bits(value)
	}
	text, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode training state: %w", err)
	}
	list, values := t.tensors()
	b := appendShape(append(make([]byte, 0, 4096+floatBytes*4*len(t.net.Parameters)), stateMagic...), list)
	b = append(binary.LittleEndian.AppendUint32(b, uint32(len(text))), text...)
	for _, part := range values {
		b = appendFloats(b, part)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

func appendShape(b []byte, list []network.Tensor) []byte {
	b = binary.LittleEndian.AppendUint32(b, stateVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(list)))
	for _, t := range list {
		name := t.Name[:min(len(t.Name), math.MaxUint8)]
		b = append(b, uint8(len(name)))
		b = append(b, name...)
		b = binary.LittleEndian.AppendUint32(b, uint32(t.Rows))
		b = binary.LittleEndian.AppendUint32(b, uint32(t.Cols))
	}
	return b
}

// Restore goes on from a state; seed and learning rate come from it. It fails
// with fault.Corrupt when the state is damaged and with fault.Invalid when it
// is sound and of another model, method, encoding of the data or batch size; the
// training is then as it was before.
func (t *Training) Restore(state []byte) error { return t.restore(state, true) }

// Load is Restore for a model that is only asked, by Evaluate and Predict: batches
// of what size it was trained on is no matter then.
func (t *Training) Load(state []byte) error { return t.restore(state, false) }

func (t *Training) restore(state []byte, goesOn bool) error {
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
	list, values := t.tensors()
	shape := appendShape([]byte(stateMagic), list)
	if !bytes.HasPrefix(body, shape) {
		return fault.New(fault.Invalid, "read training state: it is of another model or optimizer")
	}
	return t.restoreBody(body[len(shape):], values, goesOn)
}

func (t *Training) restoreBody(rest []byte, values [][]float32, goesOn bool) error {
	floats := 0
	for _, part := range values {
		floats += floatBytes * len(part)
	}
	if len(rest) < 4 || uint64(len(rest)) != 4+uint64(binary.LittleEndian.Uint32(rest))+uint64(floats) {
		return fault.New(fault.Corrupt, "read training state: %d bytes behind the shape do not fit it", len(rest))
	}
	w, cursor, err := t.readWords(rest[4:len(rest)-floats], goesOn)
	if err != nil {
		return err
	}
	learnt := make([]float64, len(w.Balance))
	for i, bits := range w.Balance {
		learnt[i] = math.Float64frombits(bits)
	}
	if err := t.balancer.Restore(learnt); err != nil {
		return fmt.Errorf("read training state: %w", err)
	}
	t.learnt, t.weighed = learnt, false
	t.config.Seed, t.config.LearningRate = w.Seed, w.LearningRate
	t.step, t.stop = w.Step, stopping{Best: w.Best, Bad: w.Bad}
	t.pipeline.Seek(cursor)
	rest = rest[len(rest)-floats:]
	for _, part := range values {
		readFloats(part, rest)
		rest = rest[floatBytes*len(part):]
	}
	t.net.Rollback()
	return nil
}

// readWords reads and judges what is not tensors. It must be written as State
// writes it.
func (t *Training) readWords(text []byte, goesOn bool) (words, data.Cursor, error) {
	var w words
	err := json.Unmarshal(text, &w)
	if again, encodeErr := json.Marshal(w); err != nil || encodeErr != nil || !bytes.Equal(again, text) {
		return w, data.Cursor{}, fault.New(fault.Corrupt, "read training state: its words are not as this program writes them")
	}
	cursor := data.Cursor{Seed: w.Seed, Drawn: w.DataPosition}
	switch {
	case goesOn && (w.Batch != t.config.Batch || w.Accumulate != t.config.Accumulate):
		return w, cursor, fault.New(fault.Invalid, "read training state: it was made with %d batches of %d, this training has %d of %d; resume with --batch %d",
			w.Accumulate, w.Batch, t.config.Accumulate, t.config.Batch, w.Batch)
	case w.Method != t.balancer.Name():
		return w, cursor, fault.New(fault.Invalid, "read training state: its tasks were weighed by %s, those of this training are by %s", w.Method, t.balancer.Name())
	case w.Encoding != "" && w.Encoding != t.shape.Encoding:
		return w, cursor, fault.WithHint(fault.New(fault.Invalid, "read training state: the columns' means, words or classes in the plan's table are not those that it was trained with"),
			"have the plan name the file, columns and held-out share that it was trained with, or train anew")
	case w.Step < 0 || w.DataPosition < 0 || !(w.LearningRate > 0) || w.Bad < 0:
		return w, cursor, fault.New(fault.Corrupt, "read training state: step %d, position %d, learning rate %v cannot be", w.Step, w.DataPosition, w.LearningRate)
	case len(w.Random) != pcgBytes:
		return w, cursor, fault.New(fault.Corrupt, "read training state: its random state has %d bytes, want %d", len(w.Random), pcgBytes)
	}
	if err := cursor.Random.UnmarshalBinary(append([]byte(pcgPrefix), w.Random...)); err != nil {
		return w, cursor, fault.Mark(fault.Corrupt, fmt.Errorf("read training state: random state: %w", err))
	}
	return w, cursor, nil
}

func readFloats(into []float32, from []byte) {
	for i := range into {
		into[i] = math.Float32frombits(binary.LittleEndian.Uint32(from[i*floatBytes:]))
	}
}
