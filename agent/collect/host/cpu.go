package host

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/metric"
)

// ticksPerSecond is the unit of /proc's times, USER_HZ: 100 on every
// architecture that the agent is built for.
const ticksPerSecond = 100

// modes is the columns of /proc/stat in order. The two of guests behind them
// stand in user and nice already.
func modes() []string {
	return []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"}
}

const (
	idleColumn, iowaitColumn = 3, 4
	columns                  = 8
)

// times is a CPU's time by mode, in ticks.
type times [columns]uint64

// cpu is what the collector remembers of the CPUs.
type cpu struct {
	before times
	known  bool // before is of an earlier call
	all    [][]string
}

// processors reads /proc/stat: the time of all CPUs, of each where that is
// wanted, and a few counts.
func (c *collector) processors(_ context.Context, emit gauge) error {
	data, err := c.read.Read(c.proc("stat"))
	if err != nil {
		return err
	}
	for line := range sysfile.Lines(data) {
		name, rest := sysfile.Field(line)
		switch string(name) {
		case "cpu":
			now, ok := readTimes(rest)
			if !ok {
				return fmt.Errorf("read stat: %q is no line of times", line)
			}
			c.total(now, emit)
		case "ctxt":
			number(rest, 1, metric.HostContexts, emit)
		case "processes":
			number(rest, 1, metric.HostForks, emit)
		case "procs_running":
			number(rest, 1, metric.HostTasksRunnable, emit)
		case "procs_blocked":
			number(rest, 1, metric.HostTasksBlocked, emit)
		case "btime":
			number(rest, 1, metric.HostStarted, emit)
		default:
			if c.config.PerCore && bytes.HasPrefix(name, []byte("cpu")) {
				c.core(name[3:], rest, emit)
			}
		}
	}
	return nil
}

// total emits the time of all CPUs, and the busy share since the call before.
func (c *collector) total(now times, emit gauge) {
	if c.cpu.all == nil {
		for _, mode := range modes() {
			c.cpu.all = append(c.cpu.all, []string{mode})
		}
	}
	for i, ticks := range now {
		emit(metric.HostCPUSeconds, float64(ticks)/ticksPerSecond, c.cpu.all[i])
	}
	if c.cpu.known {
		if busy, ok := busyRatio(c.cpu.before, now); ok {
			emit(metric.HostCPUBusy, busy, nil)
		}
	}
	c.cpu.before, c.cpu.known = now, true
}

func (c *collector) core(number, rest []byte, emit gauge) {
	now, ok := readTimes(rest)
	if !ok {
		return
	}
	names, ok := c.cpuLabels[string(number)]
	if !ok {
		for _, mode := range modes() {
			names = append(names, []string{string(number), mode})
		}
		c.cpuLabels[string(number)] = names
	}
	for i, ticks := range now {
		emit(metric.HostCoreSeconds, float64(ticks)/ticksPerSecond, names[i])
	}
}

// readTimes reads the columns; a kernel that has fewer leaves the last at 0.
func readTimes(rest []byte) (t times, ok bool) {
	var field []byte
	for i := range t {
		field, rest = sysfile.Field(rest)
		if len(field) == 0 {
			return t, i > idleColumn
		}
		if t[i], ok = sysfile.Uint(field); !ok {
			return t, false
		}
	}
	return t, true
}

// busyRatio is the share of time that was not idle. It has no value when no
// time has passed or the counters went back, as they do when a CPU is taken
// offline.
func busyRatio(before, now times) (float64, bool) {
	var all, idle uint64
	for i := range now {
		if now[i] < before[i] {
			return 0, false
		}
		spent := now[i] - before[i]
		all += spent
		if i == idleColumn || i == iowaitColumn {
			idle += spent
		}
	}
	if all == 0 {
		return 0, false
	}
	return float64(all-idle) / float64(all), true
}

// number emits the first field of a line, times a factor.
func number(rest []byte, factor float64, def metric.Def, emit gauge) {
	field, _ := sysfile.Field(rest)
	value(field, factor, def, nil, emit)
}

// value emits a field, times a factor; one that is no number is not known.
func value(field []byte, factor float64, def metric.Def, labels []string, emit gauge) {
	if n, ok := sysfile.Uint(field); ok {
		emit(def, float64(n)*factor, labels)
	}
}

func (c *collector) load(_ context.Context, emit gauge) error {
	data, err := c.read.Read(c.proc("loadavg"))
	if err != nil {
		return err
	}
	var fields [4][]byte
	if sysfile.Fields(data, fields[:]) < len(fields) {
		return fmt.Errorf("read loadavg: %q is too short", data)
	}
	for i, def := range []metric.Def{metric.HostLoad1, metric.HostLoad5, metric.HostLoad15} {
		value, err := strconv.ParseFloat(string(fields[i]), 64)
		if err != nil {
			return fmt.Errorf("read loadavg: %w", err)
		}
		emit(def, value, nil)
	}
	_, tasks, _ := bytes.Cut(fields[3], []byte{'/'})
	number(tasks, 1, metric.HostTasks, emit)
	return nil
}

func (c *collector) uptime(_ context.Context, emit gauge) error {
	data, err := c.read.Read(c.proc("uptime"))
	if err != nil {
		return err
	}
	first, _ := sysfile.Field(data)
	seconds, err := strconv.ParseFloat(string(first), 64)
	if err != nil {
		return fmt.Errorf("read uptime: %w", err)
	}
	emit(metric.HostUptime, seconds, nil)
	return nil
}

// files reads what is open: allocated, 0, most. The kernel says "no bound" as
// a number near 2^63.
func (c *collector) files(_ context.Context, emit gauge) error {
	data, err := c.read.Read(c.proc("sys/fs/file-nr"))
	if err != nil {
		return err
	}
	var fields [3][]byte
	if sysfile.Fields(bytes.TrimSpace(data), fields[:]) < len(fields) {
		return fmt.Errorf("read file-nr: %q is too short", data)
	}
	number(fields[0], 1, metric.HostFiles, emit)
	if most, ok := sysfile.Uint(fields[2]); ok && most < 1<<62 {
		emit(metric.HostFilesMax, float64(most), nil)
	}
	return nil
}
