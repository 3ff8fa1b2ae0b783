// Package kernel reads the kernel's log and reports what is broken: XID and
// SXID errors of GPUs and NVSwitches, processes killed for want of memory,
// machine checks, memory, disks, file systems, network adapters, and tasks that
// hang.
//
// Each record is taken once. How far the log was read is on disk, with the id
// of the machine's start; a fault has a key made of that and its record's
// number, so that one that is told again after a crash is known. Records that
// the kernel wrote over before they were read are counted.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/plug"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Kind is the collector's entry in the catalogue.
var Kind = plug.Of("kernel", Config{Log: "/dev/kmsg", Proc: "/proc", History: time.Hour}, New)

const (
	// pace is how far apart calls are where nothing is set and the log has
	// nothing new.
	pace = 10 * time.Second
	// fileEvery is how far apart calls are where the log is a file, which tells
	// nobody that it has grown.
	fileEvery = time.Second
	// saveEvery is how long apart the cursor is saved when no fault was found;
	// after a fault it is saved at once.
	saveEvery = 10 * time.Second
	// cursorFile is where it is, below the state directory.
	cursorFile = "kernel-cursor.json"
)

// Config is what users say about the collector. In a container the machine's
// own /proc is mounted somewhere else.
type Config struct {
	// Log is the log: /dev/kmsg, or a file of lines in its format.
	Log  string `yaml:"log"`
	Proc string `yaml:"proc"`
	// History is how far back the log is looked into by an agent that has no
	// cursor: at its first start on a machine.
	History time.Duration `yaml:"history"`
}

// Check reports paths that are empty and a history below zero.
func (c Config) Check(report func(key, format string, args ...any)) {
	for key, path := range map[string]string{"log": c.Log, "proc": c.Proc} {
		if path == "" {
			report(key, "is empty; want a path")
		}
	}
	if c.History < 0 {
		report("history", "is %v; want 0 or more", c.History)
	}
}

type collector struct {
	config  Config
	faults  func(ctx context.Context, fault *commonv1.NodeFault) error
	log     *slog.Logger
	fs      durable.FS
	path    string // of the cursor
	clock   func() time.Time
	uptime  func() (time.Duration, error)
	read    sysfile.Reader
	source  source
	words   *interpreter
	victims *victims
	limit   *limiter

	begun   bool
	at      cursor
	fresh   bool // there was no cursor: the log is history
	told    bool // something that the cursor on disk does not know
	started time.Time
	saved   cursor
	savedAt time.Time
	counts  counts
	steady  bool // the last call emitted what the one before did
}

// counts is since the agent started.
type counts struct {
	records, missed, folded float64
	emitted                 float64 // records and missed together, when they were last emitted
	kinds                   map[string]float64
}

// New makes the collector.
func New(config Config, deps collect.Deps) (collect.Collector, error) {
	return &collector{
		config: config, faults: deps.Faults, log: deps.Log, fs: durable.OS{},
		path: filepath.Join(deps.StateDir, cursorFile), clock: time.Now, uptime: sinceStart,
		source: source{path: config.Log}, words: newInterpreter(),
		victims: newVictims(config.Proc, deps.Trainers), limit: newLimiter(),
		counts: counts{kinds: map[string]float64{}},
	}, nil
}

// sinceStart is the clock of the log: it stands while the machine sleeps.
func sinceStart() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// Pace is how far apart calls are where nothing is set.
func (c *collector) Pace() time.Duration { return pace }

// Await waits until the kernel has said something more.
func (c *collector) Await(ctx context.Context) {
	if !c.source.await(ctx) {
		life.Sleep(ctx, fileEvery)
	}
}

// Collect takes what the kernel has said since the call before. It says
// Unsupported where there is no log. When a fault cannot be recorded, the log
// is read again from it at the next call.
func (c *collector) Collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	if err := c.begin(); err != nil {
		return collect.Unknown, err
	}
	now := c.clock()
	c.victims.look(now)
	err := c.source.lines(ctx, func(line []byte) error { return c.take(ctx, line) })
	if err == nil && ctx.Err() == nil {
		c.fresh = false // all that there was has been read
		err = c.fold(ctx, now)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return collect.Unsupported, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fault.WithHint(err, "give the agent the capability CAP_SYSLOG, or run it as root")
	}
	err = errors.Join(err, c.save(now, c.told))
	c.emit(emit)
	if err != nil {
		return collect.Unknown, err
	}
	return collect.Ok, nil
}

// begin settles where to go on: behind what was taken since the machine's
// start, at the log's beginning after another start.
func (c *collector) begin() error {
	up, err := c.uptime()
	if err != nil {
		return err
	}
	c.started = c.clock().Add(-up)
	if c.begun {
		return nil
	}
	data, err := c.read.Read(c.config.Proc + "/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("tell the machine's starts apart: %w", err)
	}
	before, ok, err := loadCursor(c.path)
	if err != nil {
		c.log.Warn("kernel log: the cursor is lost, so faults that the kernel log still has may be told again", "err", err)
	}
	c.fresh = !ok && err == nil
	c.at = cursor{BootID: strings.TrimSpace(string(data))}
	if before.BootID == c.at.BootID {
		c.at = before
	}
	c.saved, c.begun = before, true
	return nil
}

// take takes one line of the log. After an error the log is read again, from
// the first record that stands behind nothing that was reported.
func (c *collector) take(ctx context.Context, line []byte) error {
	r, ok := parse(line)
	if !ok || r.sequence < c.at.Next {
		return nil
	}
	if missed := r.sequence - c.at.Next; missed > 0 && !c.fresh {
		c.counts.missed += float64(missed)
		c.log.Warn("kernel log: records were written over before they were read", "records", missed)
	}
	at := c.started.Add(time.Duration(r.micros) * time.Microsecond)
	old := c.fresh && c.clock().Sub(at) > c.config.History
	if r.text != "" && !old {
		if err := c.judge(ctx, r, at); err != nil {
			c.at.Next = c.limit.oldest(r.sequence)
			c.limit.restart()
			return err
		}
	}
	c.at.Next = r.sequence + 1
	c.counts.records++
	return nil
}

// judge reports what a record says is broken, if anything.
func (c *collector) judge(ctx context.Context, r record, at time.Time) error {
	c.victims.listen(r.text)
	f := c.words.fault(r.text)
	if f == nil {
		return nil
	}
	if err := c.fold(ctx, at); err != nil {
		return err
	}
	c.victims.name(f)
	one := found{fault: f, at: at, first: r.sequence, last: r.sequence}
	if !c.limit.pass(one) {
		c.counts.folded++
		return nil
	}
	if err := c.tell(ctx, one, ""); err != nil {
		c.limit.undo(one)
		return err
	}
	c.counts.kinds[strings.ToLower(strings.TrimPrefix(f.Kind.String(), "FAULT_KIND_"))]++
	return nil
}

// fold reports what was folded and whose minute is over at a time.
func (c *collector) fold(ctx context.Context, now time.Time) error {
	for _, f := range c.limit.due(now) {
		if err := c.tell(ctx, f, "/folded"); err != nil {
			return err
		}
		c.limit.done(f)
	}
	return nil
}

// tell records a fault under a key that is the same every time it is told.
func (c *collector) tell(ctx context.Context, f found, suffix string) error {
	f.fault.Key = fmt.Sprintf("kmsg/%s/%d%s", c.at.BootID, f.last, suffix)
	f.fault.Time = timestamppb.New(f.at)
	err := c.faults(ctx, f.fault)
	c.told = c.told || err == nil
	return err
}

// save puts the cursor on disk where it has moved. What is folded has not been
// reported, so it stays in front of the cursor.
func (c *collector) save(now time.Time, atOnce bool) error {
	next := cursor{BootID: c.at.BootID, Next: c.limit.oldest(c.at.Next)}
	if next == c.saved || (!atOnce && now.Sub(c.savedAt) < saveEvery && !now.Before(c.savedAt)) {
		return nil
	}
	if err := next.save(c.fs, c.path); err != nil {
		return fmt.Errorf("save cursor of the kernel log: %w", err)
	}
	c.saved, c.savedAt, c.told = next, now, false
	return nil
}

// Steady tells whether the last call found nothing.
func (c *collector) Steady() bool { return c.steady }

func (c *collector) emit(emit func(metric.Sample)) {
	// No count changes without these two: what is a fault or is folded is a record.
	read := c.counts.records + c.counts.missed
	c.steady, c.counts.emitted = read == c.counts.emitted, read
	emit(metric.Sample{Def: metric.KernelRecords, Value: c.counts.records})
	emit(metric.Sample{Def: metric.KernelMissed, Value: c.counts.missed})
	emit(metric.Sample{Def: metric.KernelFolded, Value: c.counts.folded})
	for kind, n := range c.counts.kinds {
		emit(metric.Sample{Def: metric.KernelFaults, Labels: []string{kind}, Value: n})
	}
}

// Close saves the cursor and closes the log.
func (c *collector) Close() error {
	c.source.close()
	if !c.begun {
		return nil
	}
	return c.save(c.clock(), true)
}
