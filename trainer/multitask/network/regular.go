package network

import (
	"math"
	"math/rand/v2"
)

const (
	normMomentum = 0.1  // share of a batch in the running statistics
	normEpsilon  = 1e-5 // added to variances
)

// batchNorm gives each unit the mean and the variance that it learns (Ioffe and
// Szegedy, ICML 2015). While training it takes a batch's own; otherwise running
// means over batches, whose variances are unbiased.
type batchNorm struct {
	units           int
	scaleAt, meanAt int // tensors and buffers; shift and variance are the next
	scale, shift    []float32
	dScale, dShift  []float32
	mean, variance  []float32 // running, as committed
	newMean, newVar []float32 // running, pending
	normal, out     []float32
	inverse         []float64 // of the standard deviation in the last pass
	sum, square     []float64
	trained         bool // the last pass took the batch's statistics
}

func (b *batchNorm) bind(n *Network) {
	b.scale, b.dScale = n.Tensors[b.scaleAt].Of(n.Parameters), n.Tensors[b.scaleAt].Of(n.Gradients)
	b.shift, b.dShift = n.Tensors[b.scaleAt+1].Of(n.Parameters), n.Tensors[b.scaleAt+1].Of(n.Gradients)
	b.mean, b.newMean = n.Buffers[b.meanAt].Of(n.Running), n.Buffers[b.meanAt].Of(n.pending)
	b.variance, b.newVar = n.Buffers[b.meanAt+1].Of(n.Running), n.Buffers[b.meanAt+1].Of(n.pending)
	b.normal, b.out = make([]float32, n.shape.Rows*b.units), make([]float32, n.shape.Rows*b.units)
	b.inverse, b.sum, b.square = make([]float64, b.units), make([]float64, b.units), make([]float64, b.units)
}

func (b *batchNorm) initialize() {
	for i := range b.units {
		b.scale[i], b.variance[i], b.newVar[i] = 1, 1, 1
	}
}

func (b *batchNorm) forward(in []float32, rows int, pass Pass) []float32 {
	b.trained = pass.Training && rows > 1 // one row has no variance
	if b.trained {
		b.measure(in, rows)
	} else {
		for j := range b.units {
			b.sum[j], b.inverse[j] = float64(b.mean[j]), 1/math.Sqrt(float64(b.variance[j])+normEpsilon)
		}
	}
	out := b.out[:len(in)]
	for i := range rows {
		row := i * b.units
		for j := range b.units {
			normal := float32((float64(in[row+j]) - b.sum[j]) * b.inverse[j])
			b.normal[row+j] = normal
			out[row+j] = normal*b.scale[j] + b.shift[j]
		}
	}
	return out
}

// measure leaves the batch's means in sum and notes its statistics.
func (b *batchNorm) measure(in []float32, rows int) {
	clear(b.sum)
	clear(b.square)
	count := float64(rows)
	for i := range rows {
		for j, value := range in[i*b.units : (i+1)*b.units] {
			b.sum[j] += float64(value)
		}
	}
	for j := range b.sum {
		b.sum[j] /= count
	}
	for i := range rows {
		for j, value := range in[i*b.units : (i+1)*b.units] {
			off := float64(value) - b.sum[j]
			b.square[j] += off * off
		}
	}
	for j := range b.units {
		b.inverse[j] = 1 / math.Sqrt(b.square[j]/count+normEpsilon)
		b.newMean[j] += float32(normMomentum * (b.sum[j] - float64(b.newMean[j])))
		b.newVar[j] += float32(normMomentum * (b.square[j]/(count-1) - float64(b.newVar[j])))
	}
}

func (b *batchNorm) backward(rows int, dOut, _ []float32) []float32 {
	clear(b.sum)
	clear(b.square)
	for i := range rows {
		row := i * b.units
		for j := range b.units {
			b.sum[j] += float64(dOut[row+j])
			b.square[j] += float64(dOut[row+j]) * float64(b.normal[row+j])
		}
	}
	for j := range b.units {
		b.dShift[j], b.dScale[j] = float32(b.sum[j]), float32(b.square[j])
	}
	count := float64(rows)
	for i := range rows {
		row := i * b.units
		for j := range b.units {
			slope := float64(dOut[row+j])
			if b.trained {
				slope -= (b.sum[j] + float64(b.normal[row+j])*b.square[j]) / count
			}
			dOut[row+j] = float32(float64(b.scale[j]) * b.inverse[j] * slope)
		}
	}
	return dOut
}

// lanes is into how many choices one random number is cut.
const (
	lanes    = 4
	laneBits = 64 / lanes
)

// dropout sets units to 0 by chance, in place, and makes the others larger for
// it (Srivastava et al., 2014). Which, the pass decides alone.
type dropout struct {
	id     uint64 // of the layer in the network
	below  uint64 // what a lane must be under for its unit to be dropped
	factor float32
	mask   []float32 // 0 or factor
	size   int
	pcg    rand.PCG
	active bool
}

func newDropout(id uint64, share float64, size int) *dropout {
	d := &dropout{id: id, below: uint64(math.Round(share * (1 << laneBits))), size: size}
	d.factor = float32(1 / (1 - float64(d.below)/(1<<laneBits)))
	return d
}

func (d *dropout) bind(n *Network) { d.mask = make([]float32, n.shape.Rows*d.size) }

func (d *dropout) forward(in []float32, _ int, pass Pass) []float32 {
	d.active = pass.Training
	if !d.active {
		return in
	}
	d.pcg.Seed(pass.Seed^(d.id+1)<<48, uint64(pass.Step)<<16|uint64(pass.Part))
	for i := 0; i < len(in); i += lanes {
		draw := d.pcg.Uint64()
		for k := i; k < min(i+lanes, len(in)); k++ {
			d.mask[k] = 0
			if draw&(1<<laneBits-1) >= d.below {
				d.mask[k] = d.factor
			}
			in[k] *= d.mask[k]
			draw >>= laneBits
		}
	}
	return in
}

func (d *dropout) backward(_ int, dOut, _ []float32) []float32 {
	if d.active {
		for i, m := range d.mask[:len(dOut)] {
			dOut[i] *= m
		}
	}
	return dOut
}
