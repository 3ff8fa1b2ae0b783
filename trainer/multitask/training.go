package multitask

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/digits"
)

// Format names what a checkpoint of this trainer holds.
const Format = "vigil-multitask/1"

// maxBatch bounds a mini-batch; larger ones only waste memory here.
const maxBatch = 4096

// Streams of random numbers of one seed.
const (
	weightStream = 1
	dataStream   = 2
)

// Config is what decides every bit of a training.
type Config struct {
	Seed         uint64
	Batch        int     // samples a step; 1 to 4096
	LearningRate float64 // over 0
	// LabelSmoothing is the share of each digit's label that is spread over all
	// digits; 0 to below 1.
	LabelSmoothing float64
}

// Defaults is seed 1, batches of 64 and a learning rate of 0.001.
func Defaults() Config { return Config{Seed: 1, Batch: 64, LearningRate: 1e-3} }

// Training is a model in training: parameters, optimizer, random state and
// position in the data. A step is Compute, a look at what it gave, and Apply;
// without Apply it never happened. It is for one goroutine.
type Training struct {
	config Config
	set    *digits.Set
	net    *network
	adam   adam
	step   int64     // steps applied
	before []float32 // parameters before a measured step
	layers []trainer.Layer
	drawn  int64 // samples that they consumed

	random rand.PCG   // as the last applied step left it
	ahead  rand.PCG   // as the step in progress will leave it
	source *rand.Rand // reads ahead

	input  []float32
	labels [2][]int // left, right
	inks   []float32
	poison bool // the next Compute gives a gradient that is not a number
}

// New begins a training.
func New(config Config) (*Training, error) {
	switch {
	case config.Batch < 1 || config.Batch > maxBatch:
		return nil, fault.New(fault.Invalid, "begin training: batch is %d; want 1 to %d", config.Batch, maxBatch)
	case !(config.LearningRate > 0) || math.IsInf(config.LearningRate, 0):
		return nil, fault.New(fault.Invalid, "begin training: learning rate is %v; want a number over 0", config.LearningRate)
	case !(config.LabelSmoothing >= 0 && config.LabelSmoothing < 1):
		return nil, fault.New(fault.Invalid, "begin training: label smoothing is %v; want 0 to below 1", config.LabelSmoothing)
	}
	set, err := digits.Load()
	if err != nil {
		return nil, err
	}
	t := &Training{
		config: config, set: set, net: newNetwork(config.Batch),
		input: make([]float32, config.Batch*digits.CanvasPixels),
		inks:  make([]float32, config.Batch),
	}
	t.labels = [2][]int{make([]int, config.Batch), make([]int, config.Batch)}
	t.adam = newAdam(len(t.net.parameters))
	t.random = *rand.NewPCG(config.Seed, dataStream)
	t.source = rand.New(&t.ahead)
	t.net.initialize(rand.New(rand.NewPCG(config.Seed, weightStream)))
	return t, nil
}

// Step gives the number of steps applied.
func (t *Training) Step() int64 { return t.step }

// DataPosition gives the number of samples that the applied steps consumed.
func (t *Training) DataPosition() int64 { return t.drawn }

// Config gives what the training was begun with.
func (t *Training) Config() Config { return t.config }

// EpochSteps gives how many steps consume as many samples as there are digits to
// train on.
func (t *Training) EpochSteps() int64 {
	return int64((len(t.set.Train) + t.config.Batch - 1) / t.config.Batch)
}

// Outcome is what Compute found.
type Outcome struct {
	Losses       Losses
	Correct      [2]int  // rows of the batch whose left, right digit was told
	GradientNorm float64 // L2 norm over all parameters
}

// Compute draws the next step's batch and computes its losses and gradients.
// Until Apply, calling it again gives the same again. It allocates nothing.
func (t *Training) Compute() Outcome {
	t.ahead = t.random
	batch := t.config.Batch
	t.draw(t.source, t.set.Train, batch)
	input := matrix(batch, digits.CanvasPixels, t.input)
	t.net.forward(input)
	var o Outcome
	o.Losses.Left, o.Correct[0] = softmaxLoss(&t.net.left, t.labels[0], t.config.LabelSmoothing)
	o.Losses.Right, o.Correct[1] = softmaxLoss(&t.net.right, t.labels[1], t.config.LabelSmoothing)
	o.Losses.Ink, _ = squaredLoss(&t.net.ink, t.inks)
	t.net.backward(input)
	if t.poison {
		t.poison = false
		gradient := t.net.encoder[1].dWeight.Data
		gradient[len(gradient)/2] = float32(math.NaN())
	}
	o.GradientNorm = t.gradientNorm()
	return o
}

// Apply has the optimizer use the gradients of Compute; rateScale multiplies
// the learning rate of this step.
func (t *Training) Apply(rateScale float64) {
	t.step++
	t.adam.apply(t.net.parameters, t.net.gradients, t.step, t.config.LearningRate*rateScale)
	t.random = t.ahead
	t.drawn += int64(t.config.Batch)
}

// SkipBatch leaves the next step's batch out: its samples count as consumed, and
// nothing is learned from them.
func (t *Training) SkipBatch() {
	t.ahead = t.random
	t.draw(t.source, t.set.Train, t.config.Batch)
	t.random = t.ahead
	t.drawn += int64(t.config.Batch)
}

// draw fills the first rows of the batch.
func (t *Training) draw(source *rand.Rand, from []digits.Digit, rows int) {
	for i := range rows {
		left, right := &from[source.IntN(len(from))], &from[source.IntN(len(from))]
		canvas := t.input[i*digits.CanvasPixels : (i+1)*digits.CanvasPixels]
		t.inks[i] = digits.Overlay(canvas, left, right) / InkUnit
		t.labels[0][i], t.labels[1][i] = left.Label, right.Label
	}
}

// gradientNorm is finite exactly when every gradient is: squares of float32
// cannot overflow a float64.
func (t *Training) gradientNorm() float64 {
	sum := 0.0
	for _, g := range t.net.gradients {
		sum += float64(g) * float64(g)
	}
	return math.Sqrt(sum)
}

// NonFinite gives nil when a computed step can be applied, and otherwise where
// the first value lies that is not finite: among the parameters, the gradients
// or, if neither has one, in the loss.
func (t *Training) NonFinite(o Outcome) *commonv1.NonFinite {
	if finite(o.GradientNorm) && o.Losses.Finite() {
		return nil
	}
	found := &commonv1.NonFinite{Quantity: commonv1.Quantity_QUANTITY_LOSS, Tensor: "loss", TensorSize: 1, ParametersIntact: true}
	switch {
	case t.search(t.net.parameters, "", found):
		found.Quantity, found.ParametersIntact = commonv1.Quantity_QUANTITY_PARAMETER, false
	case t.search(t.net.gradients, ".grad", found):
		found.Quantity = commonv1.Quantity_QUANTITY_GRADIENT
	case math.IsNaN(o.Losses.Total()):
		found.NanCount = 1
	default:
		found.InfCount = 1
	}
	found.Step = t.step + 1
	return found
}

// search names the first tensor with a value that is not finite.
func (t *Training) search(flat []float32, suffix string, found *commonv1.NonFinite) bool {
	for _, tensor := range t.net.tensors {
		nan, inf := countNonFinite(tensor.of(flat))
		if nan+inf > 0 {
			found.Tensor, found.TensorSize = tensor.name+suffix, int64(tensor.size())
			found.NanCount, found.InfCount = nan, inf
			return true
		}
	}
	return false
}

// NonFiniteParameters counts the parameters that are not finite.
func (t *Training) NonFiniteParameters() int64 {
	nan, inf := countNonFinite(t.net.parameters)
	return nan + inf
}

func countNonFinite(values []float32) (nan, inf int64) {
	for _, value := range values {
		switch {
		case value != value:
			nan++
		case value > math.MaxFloat32 || value < -math.MaxFloat32:
			inf++
		}
	}
	return nan, inf
}

// Poison has the next Compute meet a NaN in a gradient of the second encoder
// layer, as a faulty device would make it.
func (t *Training) Poison() { t.poison = true }

// PoisonParameter makes a parameter of the second encoder layer NaN at once, as
// a faulty memory would.
func (t *Training) PoisonParameter() {
	weight := t.net.encoder[1].weight.Data
	weight[len(weight)/2] = float32(math.NaN())
}

// Digest is the SHA-256 of the parameters, as little-endian float32 in the
// order of the tensors, in lower-case hex.
func (t *Training) Digest() string {
	sum := sha256.Sum256(appendFloats(nil, t.net.parameters))
	return hex.EncodeToString(sum[:])
}

func appendFloats(dst []byte, values []float32) []byte {
	for _, value := range values {
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(value))
	}
	return dst
}
