// Package process measures each registered trainer together with its children.
//
// There are two kinds: "process" reads what is cheap, at the agent's interval;
// "process_memory" reads what makes the kernel walk every page table
// (smaps_rollup: milliseconds for each gigabyte), once a minute.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/family"
	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the collector's entry in the catalogue.
var Kind = plug.Of("process", Config{Proc: "/proc"}, New)

// ticksPerSecond is the unit of /proc's times, USER_HZ.
const ticksPerSecond = 100

// Config is what users say about the collector. In a container the machine's
// own /proc is mounted somewhere else.
type Config struct {
	Proc string `yaml:"proc"`
}

// Check reports a path that is empty.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Proc == "" {
		report("proc", "is empty; want a directory")
	}
}

type collector struct {
	proc     string
	families *family.Finder
	read     sysfile.Reader
	clock    func() time.Time
	before   map[trainer]*totals
	real     bool // proc is the kernel's own, no copy of one
}

// trainer is whose series they are: one that is started again goes on with
// them.
type trainer struct {
	run  string
	rank uint32
}

// totals is what has been counted for a trainer, with what each process said
// last: a child that ends takes nothing away.
type totals struct {
	labels  []string
	cpu     float64 // seconds
	read    float64 // bytes
	written float64
	seen    map[process]counts
}

// process is one for as long as it lives; the number alone is used again.
type process struct {
	pid     int64
	started uint64
}

type counts struct{ ticks, read, written uint64 }

// New makes the collector.
func New(config Config, deps collect.Deps) (collect.Collector, error) {
	var system unix.Statfs_t
	if err := unix.Statfs(config.Proc, &system); err != nil {
		return nil, &fs.PathError{Op: "open", Path: config.Proc, Err: err}
	}
	return &collector{
		proc: config.Proc, families: family.New(config.Proc, deps.Trainers), clock: time.Now,
		before: map[trainer]*totals{}, real: system.Type == unix.PROC_SUPER_MAGIC,
	}, nil
}

// Collect measures every trainer; without any there is nothing to say.
func (c *collector) Collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	now := map[trainer]*totals{}
	var wrong error
	for _, f := range c.families.Find(c.clock()) {
		if err := ctx.Err(); err != nil {
			return collect.Unknown, errors.Join(wrong, err)
		}
		who := trainer{f.RunID, f.Rank}
		t := c.before[who]
		if t == nil {
			t = &totals{labels: []string{f.RunID, strconv.FormatUint(uint64(f.Rank), 10)}}
		}
		if now[who] != nil {
			continue // two attempts overlap: the first found stands for both
		}
		now[who] = t
		if err := c.measure(t, f.Members, emit); err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("measure rank %d of run %s: %w", f.Rank, f.RunID, err))
		}
	}
	c.before = now
	if wrong != nil {
		return collect.Unknown, wrong
	}
	return collect.Ok, nil
}

// sums is what is added up over a family. What one process does not let itself
// be asked is not known of the family either.
type sums struct {
	resident, anonymous, shared, swapped, files float64
	noFiles, noIO                               bool
}

func (c *collector) measure(t *totals, members []family.Member, emit func(metric.Sample)) error {
	var s sums
	var threads uint64
	seen := make(map[process]counts, len(members))
	for _, m := range members {
		dir := c.proc + "/" + strconv.FormatInt(m.PID, 10)
		err := c.memory(dir, &s)
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		threads += m.Threads
		c.files(dir, &s)
		who := process{m.PID, m.Started}
		last := t.seen[who]
		next := counts{ticks: m.CPUTicks, read: last.read, written: last.written}
		if !c.io(dir, &next) {
			s.noIO = true
		}
		t.cpu += float64(next.ticks-min(last.ticks, next.ticks)) / ticksPerSecond
		t.read += float64(next.read - min(last.read, next.read))
		t.written += float64(next.written - min(last.written, next.written))
		seen[who] = next
	}
	if t.seen = seen; len(seen) == 0 {
		return nil // it ended while it was looked at
	}
	give := func(def metric.Def, value float64) {
		emit(metric.Sample{Def: def, Labels: t.labels, Value: value})
	}
	give(metric.ProcessCount, float64(len(seen)))
	give(metric.ProcessThreads, float64(threads))
	give(metric.ProcessCPU, t.cpu)
	give(metric.ProcessResident, s.resident)
	give(metric.ProcessAnonymous, s.anonymous)
	give(metric.ProcessShared, s.shared)
	give(metric.ProcessSwapped, s.swapped)
	if !s.noFiles {
		give(metric.ProcessFiles, s.files)
	}
	if !s.noIO {
		give(metric.ProcessRead, t.read)
		give(metric.ProcessWritten, t.written)
	}
	return nil
}

// memory reads /proc/PID/status, whose sizes are in KiB. Kernel threads have
// none.
func (c *collector) memory(dir string, s *sums) error {
	data, err := c.read.Read(dir + "/status")
	if err != nil {
		return err
	}
	for line := range sysfile.Lines(data) {
		name, rest, _ := bytes.Cut(line, []byte{':'})
		var into *float64
		switch string(name) {
		case "VmRSS":
			into = &s.resident
		case "RssAnon":
			into = &s.anonymous
		case "RssShmem":
			into = &s.shared
		case "VmSwap":
			into = &s.swapped
		default:
			continue
		}
		field, _ := sysfile.Field(rest)
		kib, ok := sysfile.Uint(field)
		if !ok {
			return fmt.Errorf("read %s/status: %q is no size", dir, line)
		}
		*into += float64(kib) * 1024
	}
	return nil
}

// files counts the descriptors. Since Linux 6.2 the directory's size is their
// number; before, it is 0 and the directory must be read.
func (c *collector) files(dir string, s *sums) {
	var stat unix.Stat_t
	if err := unix.Stat(dir+"/fd", &stat); err != nil {
		s.noFiles = true
		return
	}
	if c.real && stat.Size > 0 {
		s.files += float64(stat.Size)
		return
	}
	n, ok := c.read.Count(dir + "/fd")
	s.files += float64(n)
	s.noFiles = s.noFiles || !ok
}

// io reads what went to and came from storage; another user's needs the right
// to trace it.
func (c *collector) io(dir string, into *counts) bool {
	data, err := c.read.Read(dir + "/io")
	if err != nil {
		return false
	}
	for line := range sysfile.Lines(data) {
		name, rest, _ := bytes.Cut(line, []byte{':'})
		field, _ := sysfile.Field(rest)
		n, ok := sysfile.Uint(field)
		switch {
		case !ok:
		case string(name) == "read_bytes":
			into.read = n
		case string(name) == "write_bytes":
			into.written = n
		}
	}
	return true
}

// gone tells that a process ended while it was looked at.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }
