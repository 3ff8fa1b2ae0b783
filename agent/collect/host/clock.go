package host

import (
	"context"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/internal/metric"
)

// clock asks the kernel how its clock is kept (adjtimex(2)). The kernel's
// offset is what the clock still has to be moved forward by, so a clock that
// is ahead has a negative one.
func (c *collector) clock(_ context.Context, emit gauge) error {
	var t unix.Timex
	state, err := c.adjtimex(&t)
	if err != nil {
		return err
	}
	unit := 1e-6
	if t.Status&unix.STA_NANO != 0 {
		unit = 1e-9
	}
	synced := 1.0
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		synced = 0
	}
	emit(metric.HostClockSynced, synced, nil)
	if synced == 1 {
		// Without a time service both stand at values that say nothing.
		emit(metric.HostClockOffset, -float64(t.Offset)*unit, nil)
		emit(metric.HostClockError, float64(t.Maxerror)*1e-6, nil)
	}
	return nil
}

// energy is the RAPL counters, which start anew at a maximum of their own.
type energy struct {
	looked bool
	zones  []zone
}

type zone struct {
	path   string
	label  []string
	last   uint64
	most   uint64
	joules float64
}

// rapl emits the energy of each zone. Reading is for root alone on kernels
// since 5.10 (CVE-2020-8694); elsewhere nothing is emitted.
func (c *collector) rapl(_ context.Context, emit gauge) error {
	if !c.energy.looked {
		c.energy.looked = true
		if err := c.findZones(); err != nil {
			return err
		}
	}
	for i := range c.energy.zones {
		z := &c.energy.zones[i]
		now, ok := c.read.Uint(z.path)
		if !ok {
			continue
		}
		z.joules += float64(advanced(z.last, now, z.most)) / 1e6
		z.last = now
		emit(metric.HostEnergy, z.joules, z.label)
	}
	return nil
}

// advanced is by how much a counter went on that starts anew behind most. It
// is right when it is read once a round, which takes minutes.
func advanced(last, now, most uint64) uint64 {
	if now >= last {
		return now - last
	}
	if most < last {
		return now // the maximum is not known: what came since it started anew
	}
	return most - last + now
}

// findZones finds packages and memory: "intel-rapl:0", "intel-rapl:0:1". Of
// the parts of a package only memory is not in the package's own count.
func (c *collector) findZones() error {
	dir := c.sys("class/powercap")
	names, err := c.read.Names(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		title, err := c.read.Read(path + "/name")
		if err != nil || !strings.HasPrefix(name, "intel-rapl:") {
			continue // intel-rapl-mmio counts the same again
		}
		label := strings.TrimSpace(string(title))
		if strings.Count(name, ":") > 1 {
			if label != "dram" {
				continue
			}
			label = "dram-" + strings.Split(name, ":")[1]
		}
		z := zone{path: path + "/energy_uj", label: []string{label}}
		z.most, _ = c.read.Uint(path + "/max_energy_range_uj")
		now, ok := c.read.Uint(z.path)
		if !ok {
			continue
		}
		z.last = now
		c.energy.zones = append(c.energy.zones, z)
	}
	return nil
}
