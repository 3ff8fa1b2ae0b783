package bench

import (
	"math"
	"math/rand/v2"
	"strconv"

	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/metric"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// measured are metrics of a GPU, each with where its walk begins, how far a step
// of it goes, and to how many decimals it is measured.
type measured struct {
	def         metric.Def
	start, step float64
	decimals    float64 // powers of ten
}

func gpuMetrics() []measured {
	return []measured{
		{metric.GPUUtilization, 0.9, 0.02, 100}, {metric.GPUMemoryUtilization, 0.5, 0.02, 100},
		{metric.GPUMemoryUsed, 60 << 30, 1 << 20, 1}, {metric.GPUPower, 500, 5, 1000},
		{metric.GPUTemperature, 60, 0.5, 1}, {metric.GPUMemoryTemperature, 70, 0.5, 1},
		{metric.GPUClockSM, 1.7e9, 15e6, 1}, {metric.GPUClockMemory, 2.6e9, 0, 1},
		{metric.GPUEnergy, 1e6, 300, 1000}, {metric.GPUBAR1Used, 1 << 20, 1 << 12, 1},
		{metric.GPUMemoryTotal, 80 << 30, 0, 1}, {metric.GPUMemoryReserved, 600 << 20, 0, 1},
		{metric.GPUEncoder, 0, 0, 1}, {metric.GPUDecoder, 0, 0, 1}, {metric.GPUBAR1Total, 128 << 30, 0, 1},
		{metric.GPUPowerAverage, 500, 5, 1000}, {metric.GPUPowerInstant, 500, 20, 1000}, {metric.GPUPowerLimit, 700, 0, 1},
		{metric.GPUTemperatureMargin, 30, 0.5, 1}, {metric.GPUSlowdownTemperature, 95, 0, 1},
	}
}

// walk is the series of one host, walking at random: a figure moves by up to its
// step either way, counters only up.
type walk struct {
	metrics []measured
	gpus    int
	rng     *rand.Rand
	values  []float64
}

func newWalk(seed uint64, gpus, perGPU int) *walk {
	w := &walk{metrics: gpuMetrics()[:perGPU], gpus: gpus, rng: rand.New(rand.NewPCG(seed, 1))}
	for range gpus {
		for _, m := range w.metrics {
			w.values = append(w.values, m.start)
		}
	}
	return w
}

// defs names the series; numbers begin at 1.
func (w *walk) defs() []*agentv1.SeriesDef {
	var defs []*agentv1.SeriesDef
	for gpu := range w.gpus {
		for _, m := range w.metrics {
			defs = append(defs, &agentv1.SeriesDef{
				Ref: uint32(len(defs) + 1), Metric: m.def.Name, Labels: map[string]string{"gpu": strconv.Itoa(gpu)},
			})
		}
	}
	return defs
}

// next appends one step of every series.
func (w *walk) next(points []columns.Point, timeMS int64) []columns.Point {
	for i, v := range w.values {
		m := &w.metrics[i%len(w.metrics)]
		if m.step != 0 {
			by := w.rng.Float64()
			if m.def.Type != metric.Counter {
				by = 2*by - 1
			}
			v = math.Round((v+by*m.step)*m.decimals) / m.decimals
			w.values[i] = v
		}
		points = append(points, columns.Point{Ref: uint32(i + 1), TimeMS: timeMS, Value: v})
	}
	return points
}
