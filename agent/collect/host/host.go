// Package host measures the machine: CPU, memory, load, file systems, block
// devices and network interfaces, from /proc and /sys.
package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"
	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the collector's entry in the catalogue.
var Kind = plug.Of("host", Config{Proc: "/proc", Sys: "/sys", Root: "/"}, New)

// Config is what users say about the collector. In a container the machine's
// own /proc, /sys and / are mounted somewhere else.
type Config struct {
	Proc string `yaml:"proc"`
	Sys  string `yaml:"sys"`
	Root string `yaml:"root"`
}

// Check reports a path that is empty.
func (c Config) Check(report func(key, format string, args ...any)) {
	for key, path := range map[string]string{"proc": c.Proc, "sys": c.Sys, "root": c.Root} {
		if path == "" {
			report(key, "is empty; want a directory")
		}
	}
}

type collector struct {
	log    *slog.Logger
	root   string
	proc   procfs.FS
	block  blockdevice.FS
	before *procfs.CPUStat // of the last call
	disks  *fileSystems
}

// New makes the collector. It fails when /proc or /sys is not there.
func New(config Config, deps collect.Deps) (collect.Collector, error) {
	proc, err := procfs.NewFS(config.Proc)
	if err != nil {
		return nil, fmt.Errorf("open proc: %w", err)
	}
	block, err := blockdevice.NewFS(config.Proc, config.Sys)
	if err != nil {
		return nil, fmt.Errorf("open sys: %w", err)
	}
	return &collector{
		log: deps.Log, root: config.Root, proc: proc, block: block,
		disks: newFileSystems(unix.Statfs),
	}, nil
}

// Collect measures everything; what fails takes nothing else with it. A file
// that the kernel does not have is a quantity that the machine does not have.
func (c *collector) Collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	var wrong error
	for _, part := range []struct {
		name    string
		measure func(context.Context, gauge) error
	}{
		{"CPU", c.cpu}, {"memory", c.memory}, {"load", c.load},
		{"network", c.network}, {"block devices", c.devices}, {"file systems", c.fileSystems},
	} {
		if err := part.measure(ctx, emitter(emit)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			wrong = errors.Join(wrong, fmt.Errorf("measure %s: %w", part.name, err))
		}
	}
	if wrong != nil {
		return collect.Unknown, wrong
	}
	return collect.Ok, nil
}

// gauge emits one value.
type gauge func(def metric.Def, value float64, labels ...string)

func emitter(emit func(metric.Sample)) gauge {
	return func(def metric.Def, value float64, labels ...string) {
		emit(metric.Sample{Def: def, Labels: labels, Value: value})
	}
}

// cpu emits the busy share since the call before; the first call has none.
func (c *collector) cpu(_ context.Context, emit gauge) error {
	stat, err := c.proc.Stat()
	if err != nil {
		return err
	}
	now := stat.CPUTotal
	before := c.before
	c.before = &now
	if before == nil {
		return nil
	}
	if busy, ok := busyRatio(*before, now); ok {
		emit(metric.HostCPUBusy, busy)
	}
	return nil
}

// busyRatio is the share of time that was not idle. Guest time stands in user
// time already. It has no value when no time has passed or the counters went
// back, as they do when a CPU is taken offline.
func busyRatio(before, now procfs.CPUStat) (float64, bool) {
	idle := (now.Idle + now.Iowait) - (before.Idle + before.Iowait)
	busy := worked(now) - worked(before)
	if idle < 0 || busy < 0 || idle+busy == 0 {
		return 0, false
	}
	return busy / (idle + busy), true
}

func worked(s procfs.CPUStat) float64 {
	return s.User + s.Nice + s.System + s.IRQ + s.SoftIRQ + s.Steal
}

func (c *collector) memory(_ context.Context, emit gauge) error {
	info, err := c.proc.Meminfo()
	if err != nil {
		return err
	}
	if info.MemTotalBytes != nil {
		emit(metric.HostMemoryTotal, float64(*info.MemTotalBytes))
	}
	if info.MemAvailableBytes != nil {
		emit(metric.HostMemoryAvailable, float64(*info.MemAvailableBytes))
	}
	return nil
}

func (c *collector) load(_ context.Context, emit gauge) error {
	load, err := c.proc.LoadAvg()
	if err != nil {
		return err
	}
	emit(metric.HostLoad1, load.Load1)
	return nil
}

func (c *collector) network(_ context.Context, emit gauge) error {
	interfaces, err := c.proc.NetDev()
	if err != nil {
		return err
	}
	for name, line := range interfaces {
		if name == "lo" {
			continue
		}
		emit(metric.HostNetReceived, float64(line.RxBytes), name)
		emit(metric.HostNetSent, float64(line.TxBytes), name)
		emit(metric.HostNetReceiveErrors, float64(line.RxErrors), name)
		emit(metric.HostNetSendErrors, float64(line.TxErrors), name)
	}
	return nil
}
