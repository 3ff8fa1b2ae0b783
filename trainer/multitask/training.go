package multitask

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/balance"
	"github.com/vigil-ml/vigil/trainer/multitask/data"
	"github.com/vigil-ml/vigil/trainer/multitask/network"
	"github.com/vigil-ml/vigil/trainer/multitask/optimize"
)

// Format names what a checkpoint of this trainer holds.
const Format = "vigil-multitask/2"

// weightStream tells the random numbers of the weights from those of the data.
const weightStream = 1

// Training is a model in training: parameters, optimizer, weights of the tasks
// and position in the data. A step is Compute, a look at what it gave, and Apply;
// without Apply it never happened. It is for one goroutine.
type Training struct {
	config    Config
	source    data.Source
	shape     data.Shape
	pipeline  *data.Pipeline
	net       *network.Network
	optimizer *optimize.Optimizer
	balancer  *balance.Balancer
	tasks     []balance.Task
	step      int64 // steps applied
	stop      stopping

	learnt  []float64 // the balancer's state behind the last applied step
	weighed bool      // it has learnt from a step that is not applied
	outcome Outcome
	room    room
	poison  bool // the next Compute gives a gradient that is not a number

	before []float32 // parameters before a measured step
	layers []trainer.Layer
	held   *data.Batch
}

// room is what steps need besides, made once.
type room struct {
	all    []int       // every task
	each   [][]int     // every task by itself
	parts  [][]float32 // gradients of the tasks on what they share, as gathered
	dots   []float64   // of two tasks' gradients
	norms  []float64
	losses []float64 // of the pass
	sums   []float32 // gradients of a step's passes so far
	last   []network.Tensor
}

// New begins a training. It fails with fault.Invalid when the configuration is
// wrong, and as the data does.
func New(config Config) (*Training, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	source, err := config.open()
	if err != nil {
		return nil, err
	}
	t := &Training{config: config, source: source, shape: source.Shape(), stop: stopping{Best: math.MaxFloat64}}
	heads, tasks, err := config.settle(t.shape.Targets)
	if err != nil {
		return nil, err
	}
	t.tasks = tasks
	t.balancer, err = balance.New(config.Balance.Method, config.Balance.Settings, balance.Deps{Tasks: tasks, Seed: config.Seed})
	if err != nil {
		return nil, err
	}
	m := config.Model
	t.net, err = network.New(network.Shape{
		Inputs: t.shape.Inputs, Trunk: m.Trunk, Hidden: m.Hidden, Experts: m.Experts, BatchNorm: m.BatchNorm, Dropout: m.Dropout,
		HeadInit: m.HeadInit, Heads: heads, Rows: config.Batch,
	}, rand.New(rand.NewPCG(config.Seed, weightStream)))
	if err != nil {
		return nil, err
	}
	if t.optimizer, err = optimize.New(config.Optimizer, len(t.net.Parameters)); err != nil {
		return nil, err
	}
	depth := max(config.Accumulate, config.Data.Prefetch)
	t.pipeline = data.NewPipeline(source, config.Batch, depth, data.NewCursor(config.Seed))
	t.held = data.NewBatch(t.shape, config.Batch)
	t.learnt = t.balancer.State(nil)
	t.makeRoom()
	return t, nil
}

func (t *Training) makeRoom() {
	n := len(t.tasks)
	t.outcome = Outcome{Losses: make(Losses, n), Correct: make([]int, n), Weights: make(Losses, n)}
	r := room{dots: make([]float64, n*n), norms: make([]float64, n), losses: make([]float64, n), last: t.net.Last()}
	size := 0
	for _, tensor := range r.last {
		size += tensor.Size()
	}
	if t.balancer.Needs() == balance.Gram {
		size = t.net.Shared
	}
	for i := range n {
		r.all, r.each = append(r.all, i), append(r.each, []int{i})
		r.parts = append(r.parts, make([]float32, size))
	}
	if t.config.Accumulate > 1 {
		r.sums = make([]float32, len(t.net.Gradients))
	}
	t.room = r
}

// Work makes batches in other goroutines of a group, if the configuration wants
// that, until the returned function is called.
func (t *Training) Work(group *life.Group) (end func()) {
	if t.config.Data.Workers == 0 {
		return func() {}
	}
	t.pipeline.Async()
	for i := range t.config.Data.Workers {
		group.Go(fmt.Sprintf("batches %d", i), func(ctx context.Context) error { return t.pipeline.Work(ctx) })
	}
	return t.pipeline.Close
}

// Step gives the number of steps applied.
func (t *Training) Step() int64 { return t.step }

// DataPosition gives the number of samples that the applied steps consumed.
func (t *Training) DataPosition() int64 { return t.pipeline.Cursor().Drawn }

// Config gives what the training was begun with.
func (t *Training) Config() Config { return t.config }

// Tasks names the tasks and says what each predicts.
func (t *Training) Tasks() []balance.Task { return t.tasks }

// EpochSteps gives how many steps consume as many samples as there are to train
// on.
func (t *Training) EpochSteps() int64 {
	samples := t.config.Batch * t.config.Accumulate
	return int64((t.shape.Rows + samples - 1) / samples)
}

// StepsOf gives the steps that so many epochs have; with none it gives steps.
func (t *Training) StepsOf(steps, epochs int64) int64 {
	if epochs > 0 {
		return epochs * t.EpochSteps()
	}
	return steps
}

// Compute draws the next step's samples and computes its losses and gradients.
// Until Apply, calling it again gives the same again. It allocates nothing.
func (t *Training) Compute() Outcome {
	t.net.Rollback()
	if t.weighed {
		_ = t.balancer.Restore(t.learnt) // of the same balancer: it fits
		t.weighed = false
	}
	o := &t.outcome
	clear(o.Losses)
	clear(o.Correct)
	o.Cosine = trainer.Measured[float64]{}
	for part := range t.config.Accumulate {
		t.pass(part)
	}
	if t.config.Accumulate > 1 {
		share := 1 / float32(t.config.Accumulate)
		for i, sum := range t.room.sums {
			t.net.Gradients[i] = sum * share
		}
	}
	if t.poison {
		t.poison = false
		gradient := t.room.last[0].Of(t.net.Gradients)
		gradient[len(gradient)/2] = float32(math.NaN())
	}
	o.GradientNorm = t.gradientNorm()
	return *o
}

// pass computes losses and gradients of one batch of the step. The first decides
// the weights for all.
func (t *Training) pass(part int) {
	batch := t.pipeline.At(part)
	rows := batch.Rows
	t.net.Forward(batch.Inputs, rows, network.Pass{Training: true, Seed: t.config.Seed, Step: t.step + 1, Part: part})
	for i := range t.tasks {
		loss, correct := t.lose(i, batch, rows, t.config.LabelSmoothing)
		t.room.losses[i] = loss
		t.outcome.Losses[i] += loss / float64(t.config.Accumulate)
		t.outcome.Correct[i] += correct
	}
	t.net.BackwardHeads(rows)
	if t.balancer.Needs() == balance.Gram {
		t.gather(rows, false)
		t.weigh(part)
		t.combine()
	} else {
		if part == 0 && t.looks() {
			t.gather(rows, true)
		}
		t.weigh(part)
		for i, w := range t.outcome.Weights {
			t.net.Scale(i, rows, float32(w))
		}
		t.net.BackwardTrunk(rows, t.room.all, false)
	}
	switch {
	case t.config.Accumulate == 1:
	case part == 0:
		copy(t.room.sums, t.net.Gradients)
	default:
		for i, g := range t.net.Gradients {
			t.room.sums[i] += g
		}
	}
}

// lose computes a task's loss on the first rows of a batch, and leaves its
// gradient in the network.
func (t *Training) lose(task int, batch *data.Batch, rows int, smoothing float64) (loss float64, correct int) {
	outputs, deltas := t.net.Outputs(task), t.net.Delta(task)
	if labels := batch.Labels[task]; labels != nil {
		return softmaxLoss(outputs, deltas, labels[:rows], smoothing)
	}
	return squaredLoss(outputs, deltas, batch.Values[task][:rows*t.shape.Targets[task].Outputs]), 0
}

// Apply has the optimizer use the gradients of Compute; rateScale multiplies
// the learning rate of this step.
func (t *Training) Apply(rateScale float64) {
	t.step++
	optimize.Clip(t.net.Gradients, t.outcome.GradientNorm, t.config.ClipNorm)
	t.optimizer.Apply(t.net.Parameters, t.net.Gradients, t.step, t.config.LearningRate*rateScale)
	t.net.Commit()
	t.learnt, t.weighed = t.balancer.State(t.learnt[:0]), false
	t.pipeline.Commit(t.config.Accumulate)
}

// SkipBatch leaves the next step's samples out: they count as consumed, and
// nothing is learned from them.
func (t *Training) SkipBatch() { t.pipeline.Commit(t.config.Accumulate) }

// gradientNorm is finite exactly when every gradient is: squares of float32
// cannot overflow a float64.
func (t *Training) gradientNorm() float64 {
	sum := 0.0
	for _, g := range t.net.Gradients {
		sum += float64(g) * float64(g)
	}
	return math.Sqrt(sum)
}

// Digest is the SHA-256 of the parameters, and behind them the running statistics
// where there are any, as little-endian float32 in the order of the tensors, in
// lower-case hex.
func (t *Training) Digest() string {
	sum := sha256.Sum256(appendFloats(appendFloats(nil, t.net.Parameters), t.net.Running))
	return hex.EncodeToString(sum[:])
}

func appendFloats(dst []byte, values []float32) []byte {
	for _, value := range values {
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(value))
	}
	return dst
}
