// Package host measures the machine: CPU, memory, load, pressure, file systems,
// block devices, network interfaces, clock and energy, from /proc and /sys.
package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the collector's entry in the catalogue.
var Kind = plug.Of("host", Config{
	Proc: "/proc", Sys: "/sys", Root: "/",
	SkipInterfaces: []string{"lo", "veth", "docker", "br-", "cali", "cni", "flannel", "lxc", "tap", "virbr"},
}, New)

// Config is what users say about the collector. In a container the machine's
// own /proc, /sys and / are mounted somewhere else.
type Config struct {
	Proc string `yaml:"proc"`
	Sys  string `yaml:"sys"`
	Root string `yaml:"root"`
	// PerCore adds each CPU's time by mode: eight series for each CPU. The
	// agent's compat: node does so too.
	PerCore bool `yaml:"per_core"`
	// SkipInterfaces is the beginnings of names of network interfaces that are
	// left out; by default those that containers come and go with.
	SkipInterfaces []string `yaml:"skip_interfaces"`
}

// Check reports a path that is empty.
func (c Config) Check(report func(key, format string, args ...any)) {
	for key, path := range map[string]string{"proc": c.Proc, "sys": c.Sys, "root": c.Root} {
		if path == "" {
			report(key, "is empty; want a directory")
		}
	}
}

// gauge emits one value. The labels are kept by whoever takes the sample, and
// must not change.
type gauge func(def metric.Def, value float64, labels []string)

type collector struct {
	config Config
	read   sysfile.Reader
	parts  []part

	cpu       cpu
	labels    labels
	blocks    blocks
	disks     *fileSystems
	adjtimex  func(*unix.Timex) (int, error)
	energy    energy
	cpuLabels map[string][][]string // of a core, by mode
}

// part is one kind of quantity. What fails takes no other with it.
type part struct {
	name    string
	measure func(context.Context, gauge) error
}

// New makes the collector. It fails when /proc or /sys is not there.
func New(config Config, deps collect.Deps) (collect.Collector, error) {
	config.PerCore = config.PerCore || deps.PerCore
	c := &collector{
		config: config, disks: newFileSystems(unix.Statfs), adjtimex: unix.Adjtimex,
		labels: labels{}, cpuLabels: map[string][][]string{},
	}
	for _, dir := range []string{config.Proc, config.Sys} {
		if _, err := c.read.Names(dir); err != nil {
			return nil, fault.WithHint(fmt.Errorf("open %s: %w", dir, err), "set proc and sys to where they are mounted")
		}
	}
	c.parts = []part{
		{"CPU", c.processors}, {"memory", c.memory}, {"paging", c.paging}, {"load", c.load}, {"uptime", c.uptime},
		{"pressure", c.pressure}, {"open files", c.files}, {"clock", c.clock}, {"energy", c.rapl},
		{"network", c.network}, {"block devices", c.devices}, {"file systems", c.fileSystems},
	}
	return c, nil
}

// Collect measures everything. A file that the kernel does not have, or does
// not let the agent read, is a quantity that is left out.
func (c *collector) Collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	var wrong error
	give := func(def metric.Def, value float64, labels []string) {
		emit(metric.Sample{Def: def, Labels: labels, Value: value})
	}
	for _, p := range c.parts {
		if err := ctx.Err(); err != nil {
			return collect.Unknown, errors.Join(wrong, err)
		}
		if err := p.measure(ctx, give); err != nil && !missing(err) {
			wrong = errors.Join(wrong, fmt.Errorf("measure %s: %w", p.name, err))
		}
	}
	if wrong != nil {
		return collect.Unknown, wrong
	}
	return collect.Ok, nil
}

// missing tells that the machine does not have something, or that it is not
// for the agent to see.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EOPNOTSUPP)
}

func (c *collector) proc(name string) string { return filepath.Join(c.config.Proc, name) }
func (c *collector) sys(name string) string  { return filepath.Join(c.config.Sys, name) }

// maxLabels bounds what is remembered of devices that come and go.
const maxLabels = 4096

// labels gives each name the same slice every time, so that a sample costs no
// allocation.
type labels map[string][]string

func (l labels) of(name []byte) []string {
	if known, ok := l[string(name)]; ok {
		return known
	}
	if len(l) >= maxLabels {
		clear(l)
	}
	fresh := []string{string(name)}
	l[fresh[0]] = fresh
	return fresh
}
