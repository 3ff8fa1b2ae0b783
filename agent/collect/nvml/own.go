package nvml

import (
	"strconv"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/metric"
)

// own is what the collector itself knows of the GPUs and of its helpers.
type own struct {
	starts int
	left   []*process // killed, and still there
	gpus   [][]string // the labels of those that were ever measured

	mu   sync.Mutex // XIDs are told by another goroutine
	xids map[xids]seen
}

// xids is the XIDs of a number on a GPU.
type xids struct {
	gpu    int
	number int32
}

type seen struct {
	count int
	last  time.Time
}

// maxXIDs bounds how many are told apart; what comes then is an event all the
// same.
const maxXIDs = 256

func (o *own) count(x *wire.XID, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	which := xids{x.GPU, x.Number}
	if s, ok := o.xids[which]; ok || len(o.xids) < maxXIDs {
		o.xids[which] = seen{s.count + 1, now}
	}
}

// meet takes in how many GPUs there are.
func (o *own) meet(gpus int) {
	for gpu := len(o.gpus); gpu < gpus; gpu++ {
		o.gpus = append(o.gpus, []string{strconv.Itoa(gpu)})
	}
}

// emitOwn hands on what the collector itself knows.
func (c *collector) emitOwn(emit func(metric.Sample)) {
	give := func(def metric.Def, value float64, labels ...string) {
		emit(metric.Sample{Def: def, Labels: labels, Value: value})
	}
	give(metric.GPUHelperStarts, float64(c.own.starts))
	there := c.own.left[:0]
	for _, p := range c.own.left {
		select {
		case <-p.ended:
		default:
			there = append(there, p)
		}
	}
	c.own.left = there
	give(metric.GPUHelpersLeft, float64(len(there)))
	for gpu, labels := range c.own.gpus {
		stuck := 0.0
		if c.stuck[gpu] != nil || c.stuck[wire.Library] != nil {
			stuck = 1
		}
		give(metric.GPUStuck, stuck, labels...)
	}
	c.own.mu.Lock()
	defer c.own.mu.Unlock()
	for which, s := range c.own.xids {
		gpu := "" // NVML did not say which
		if which.gpu != wire.Library {
			gpu = strconv.Itoa(which.gpu)
		}
		give(metric.GPUXIDs, float64(s.count), gpu, strconv.Itoa(int(which.number)))
		give(metric.GPUXIDTime, float64(s.last.UnixMilli())/1e3, gpu, strconv.Itoa(int(which.number)))
	}
}
