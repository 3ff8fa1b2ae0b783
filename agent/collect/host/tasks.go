package host

import (
	"context"
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/family"
	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/plug"
)

// TasksKind is the entry in the catalogue of the collector that looks at every
// process of the machine. It is a kind of its own because it is dear: some ten
// microseconds for each process.
var TasksKind = plug.Of("tasks", TasksConfig{Proc: "/proc"}, NewTasks)

// tasksPace is how far apart its calls are where nothing is set. Who hangs in
// a driver or a file system hangs for minutes.
const tasksPace = 30 * time.Second

// TasksConfig is what users say about the collector.
type TasksConfig struct {
	Proc string `yaml:"proc"`
}

// Check reports a path that is empty.
func (c TasksConfig) Check(report func(key, format string, args ...any)) {
	if c.Proc == "" {
		report("proc", "is empty; want a directory")
	}
}

type tasks struct {
	proc string
	read sysfile.Reader
}

// NewTasks makes the collector. It fails when /proc is not there.
func NewTasks(config TasksConfig, _ collect.Deps) (collect.Collector, error) {
	t := &tasks{proc: config.Proc}
	if _, err := t.read.Names(config.Proc); err != nil {
		return nil, fmt.Errorf("open %s: %w", config.Proc, err)
	}
	return t, nil
}

// Pace is how far apart calls are where nothing is set.
func (t *tasks) Pace() time.Duration { return tasksPace }

// Collect counts the processes in state D.
func (t *tasks) Collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	names, err := t.read.Names(t.proc)
	if err != nil {
		return collect.Unknown, err
	}
	stuck, looked := 0, 0
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return collect.Unknown, err
		}
		if _, ok := sysfile.Uint([]byte(name)); !ok {
			continue
		}
		data, err := t.read.Read(t.proc + "/" + name + "/stat")
		if err != nil {
			continue // it has ended
		}
		if stat, ok := family.ReadStat(data); ok {
			looked++
			if stat.State == 'D' {
				stuck++
			}
		}
	}
	if looked == 0 {
		return collect.Unknown, fmt.Errorf("read %s: no process can be seen", t.proc)
	}
	emit(metric.Sample{Def: metric.HostTasksStuck, Value: float64(stuck)})
	return collect.Ok, nil
}
