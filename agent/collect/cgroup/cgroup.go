// Package cgroup measures the control groups (version 2) that training jobs
// run in: memory against its limit, what the limit did, stalls and CPU.
package cgroup

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/family"
	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the collector's entry in the catalogue.
var Kind = plug.Of("cgroup", Config{Proc: "/proc", Root: "/sys/fs/cgroup"}, New)

// Config is what users say about the collector. In a container the machine's
// own /proc and control groups are mounted somewhere else.
type Config struct {
	Proc string `yaml:"proc"`
	// Root is where the tree of control groups, version 2, is mounted.
	Root string `yaml:"root"`
}

// Check reports a path that is empty.
func (c Config) Check(report func(key, format string, args ...any)) {
	for key, path := range map[string]string{"proc": c.Proc, "root": c.Root} {
		if path == "" {
			report(key, "is empty; want a directory")
		}
	}
}

type collector struct {
	config   Config
	trainers func() []collect.Trainer
	read     sysfile.Reader
	labels   map[string][]string
}

// New makes the collector.
func New(config Config, deps collect.Deps) (collect.Collector, error) {
	return &collector{config: config, trainers: deps.Trainers, labels: map[string][]string{}}, nil
}

// Collect measures the group of every trainer; ranks that share a group are
// measured once. It says Unsupported where the memory of groups is still
// counted by version 1, or by none.
func (c *collector) Collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	controllers, err := c.read.Read(c.config.Root + "/cgroup.controllers")
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !bytes.Contains(controllers, []byte("memory"))) {
		return collect.Unsupported, nil
	}
	if err != nil {
		return collect.Unknown, err
	}
	trainers := c.trainers()
	slices.SortFunc(trainers, func(a, b collect.Trainer) int {
		return cmp.Or(strings.Compare(a.RunID, b.RunID), cmp.Compare(a.Rank, b.Rank))
	})
	type group struct{ run, path string }
	seen := make(map[group]bool, len(trainers))
	var wrong error
	for _, t := range trainers {
		if err := ctx.Err(); err != nil {
			return collect.Unknown, errors.Join(wrong, err)
		}
		where, err := family.Group(&c.read, c.config.Proc, t.PID)
		if err != nil {
			wrong = errors.Join(wrong, err)
			continue
		}
		if where == "" || where == "/" || seen[group{t.RunID, where}] {
			continue // no group of a job's own
		}
		seen[group{t.RunID, where}] = true
		c.measure(where, t, emit)
	}
	if len(seen) == 0 {
		clear(c.labels)
	}
	if wrong != nil {
		return collect.Unknown, wrong
	}
	return collect.Ok, nil
}

// measure emits what a group says of itself. A file that is not there belongs
// to a controller that the group does not have, or to a newer kernel.
func (c *collector) measure(where string, t collect.Trainer, emit func(metric.Sample)) {
	dir := c.config.Root + where
	rank := strconv.FormatUint(uint64(t.Rank), 10)
	plain := c.label(t.RunID, rank)
	give := func(def metric.Def, value float64, labels []string) {
		emit(metric.Sample{Def: def, Labels: labels, Value: value})
	}
	if used, ok := c.read.Uint(dir + "/memory.current"); ok {
		give(metric.CgroupMemory, float64(used), plain)
	}
	if most, ok := c.read.Uint(dir + "/memory.peak"); ok { // since 5.19
		give(metric.CgroupMemoryPeak, float64(most), plain)
	}
	if limit, ok := c.limit(where); ok {
		give(metric.CgroupMemoryLimit, float64(limit), plain)
	}
	c.keyed(dir+"/memory.stat", func(key string, n float64) {
		switch key {
		case "anon":
			give(metric.CgroupMemoryAnon, n, plain)
		case "shmem":
			give(metric.CgroupMemoryShmem, n, plain)
		}
	})
	c.keyed(dir+"/memory.events", func(key string, n float64) {
		switch key {
		case "high", "max", "oom", "oom_kill":
			give(metric.CgroupEvents, n, c.label(t.RunID, rank, key))
		}
	})
	c.keyed(dir+"/cpu.stat", func(key string, n float64) {
		switch key {
		case "usage_usec":
			give(metric.CgroupCPU, n/1e6, plain)
		case "throttled_usec":
			give(metric.CgroupThrottled, n/1e6, plain)
		case "nr_throttled":
			give(metric.CgroupThrottles, n, plain)
		}
	})
	for _, resource := range []string{"cpu", "memory", "io"} {
		data, err := c.read.Read(dir + "/" + resource + ".pressure")
		if err != nil {
			continue
		}
		sysfile.Pressure(data, func(scope string, seconds float64) {
			give(metric.CgroupStall, seconds, c.label(t.RunID, rank, resource, scope))
		})
	}
}

// limit is the tightest of the group's limit and those above it, which hold
// for it too.
func (c *collector) limit(where string) (tightest uint64, found bool) {
	for ; where != "/" && where != "."; where = path.Dir(where) {
		if limit, ok := c.read.Uint(c.config.Root + where + "/memory.max"); ok && (!found || limit < tightest) {
			tightest, found = limit, true
		}
	}
	return tightest, found
}

// keyed reads a file with a key and a number a line.
func (c *collector) keyed(file string, yield func(key string, n float64)) {
	data, err := c.read.Read(file)
	if err != nil {
		return
	}
	for line := range sysfile.Lines(data) {
		key, rest := sysfile.Field(line)
		field, _ := sysfile.Field(rest)
		if n, ok := sysfile.Uint(field); ok {
			yield(string(key), float64(n))
		}
	}
}

// maxLabels bounds what is remembered of runs that come and go.
const maxLabels = 4096

// label gives the same slice for the same values.
func (c *collector) label(values ...string) []string {
	key := strings.Join(values, "\xff")
	if known, ok := c.labels[key]; ok {
		return known
	}
	if len(c.labels) >= maxLabels {
		clear(c.labels)
	}
	c.labels[key] = slices.Clone(values)
	return c.labels[key]
}
