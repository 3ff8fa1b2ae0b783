package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/family"
	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/plug"
)

// MemoryKind is the dear collector's entry in the catalogue.
var MemoryKind = plug.Of("process_memory", Config{Proc: "/proc"}, NewMemory)

// memoryPace is how far apart its calls are where nothing is set: the kernel
// holds the process' memory map while it adds up.
const memoryPace = time.Minute

type memoryCollector struct {
	proc     string
	families *family.Finder
	read     sysfile.Reader
	clock    func() time.Time
}

// NewMemory makes the collector of proportional memory.
func NewMemory(config Config, deps collect.Deps) (collect.Collector, error) {
	return &memoryCollector{
		proc: config.Proc, families: family.New(config.Proc, deps.Trainers), clock: time.Now,
	}, nil
}

// Pace is how far apart calls are where nothing is set.
func (c *memoryCollector) Pace() time.Duration { return memoryPace }

// Collect measures every trainer. A process of another user that the agent may
// not look into makes its trainer's figure unknown, which is left out.
func (c *memoryCollector) Collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	var wrong error
	for _, f := range c.families.Find(c.clock()) {
		total, counted, known := 0.0, 0, true
		for _, m := range f.Members {
			if err := ctx.Err(); err != nil {
				return collect.Unknown, errors.Join(wrong, err)
			}
			bytes, err := c.proportional(m.PID)
			switch {
			case gone(err):
				continue
			case errors.Is(err, fs.ErrPermission):
				known = false
			case err != nil:
				known, wrong = false, errors.Join(wrong, fmt.Errorf("measure process %d: %w", m.PID, err))
			}
			total += bytes
			counted++
		}
		if known && counted > 0 {
			emit(metric.Sample{
				Def: metric.ProcessPSS, Value: total,
				Labels: []string{f.RunID, strconv.FormatUint(uint64(f.Rank), 10)},
			})
		}
	}
	if wrong != nil {
		return collect.Unknown, wrong
	}
	return collect.Ok, nil
}

func (c *memoryCollector) proportional(pid int64) (float64, error) {
	data, err := c.read.Read(c.proc + "/" + strconv.FormatInt(pid, 10) + "/smaps_rollup")
	if err != nil {
		return 0, err
	}
	for line := range sysfile.Lines(data) {
		rest, ok := bytes.CutPrefix(line, []byte("Pss:"))
		if !ok {
			continue
		}
		field, _ := sysfile.Field(rest)
		if kib, ok := sysfile.Uint(field); ok {
			return float64(kib) * 1024, nil
		}
	}
	return 0, errors.New("read smaps_rollup: no Pss")
}
