package host

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/metric"
)

// memory reads /proc/meminfo, whose values are in KiB but for counts of pages.
func (c *collector) memory(_ context.Context, emit gauge) error {
	data, err := c.read.Read(c.proc("meminfo"))
	if err != nil {
		return err
	}
	huge := map[string]uint64{} // pages, and the size of one
	for line := range sysfile.Lines(data) {
		name, rest, ok := bytes.Cut(line, []byte{':'})
		field, _ := sysfile.Field(rest)
		value, isNumber := sysfile.Uint(field)
		if !ok || !isNumber {
			return fmt.Errorf("read meminfo: %q is no line of it", line)
		}
		if def, ok := memoryDef(name); ok {
			emit(def, float64(value)*1024, nil)
			continue
		}
		switch string(name) {
		case "HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp", "Hugepagesize":
			huge[string(name)] = value
		}
	}
	size, ok := huge["Hugepagesize"]
	if !ok {
		return nil // a kernel without them
	}
	emit(metric.HostHugeSize, float64(size*1024), nil)
	for name, def := range map[string]metric.Def{
		"HugePages_Total": metric.HostHugeTotal, "HugePages_Free": metric.HostHugeFree,
		"HugePages_Rsvd": metric.HostHugeReserved, "HugePages_Surp": metric.HostHugeSurplus,
	} {
		if pages, ok := huge[name]; ok {
			emit(def, float64(pages*size*1024), nil)
		}
	}
	return nil
}

func memoryDef(name []byte) (metric.Def, bool) {
	switch string(name) {
	case "MemTotal":
		return metric.HostMemoryTotal, true
	case "MemFree":
		return metric.HostMemoryFree, true
	case "MemAvailable":
		return metric.HostMemoryAvailable, true
	case "Buffers":
		return metric.HostMemoryBuffers, true
	case "Cached":
		return metric.HostMemoryCached, true
	case "Shmem":
		return metric.HostMemoryShared, true
	case "AnonPages":
		return metric.HostMemoryAnonymous, true
	case "AnonHugePages":
		return metric.HostHugeAnonymous, true
	case "Dirty":
		return metric.HostMemoryDirty, true
	case "Writeback":
		return metric.HostMemoryWriteback, true
	case "SUnreclaim":
		return metric.HostMemoryKernel, true
	case "Unevictable":
		return metric.HostMemoryPinned, true
	case "Committed_AS":
		return metric.HostMemoryCommitted, true
	case "SwapTotal":
		return metric.HostSwapTotal, true
	case "SwapFree":
		return metric.HostSwapFree, true
	}
	return metric.Def{}, false
}

// paging reads the few counters of /proc/vmstat that say that memory is short.
func (c *collector) paging(_ context.Context, emit gauge) error {
	data, err := c.read.Read(c.proc("vmstat"))
	if err != nil {
		return err
	}
	page := float64(os.Getpagesize())
	for line := range sysfile.Lines(data) {
		name, rest := sysfile.Field(line)
		switch string(name) {
		case "pswpin":
			number(rest, page, metric.HostSwapIn, emit)
		case "pswpout":
			number(rest, page, metric.HostSwapOut, emit)
		case "pgmajfault":
			number(rest, 1, metric.HostMajorFaults, emit)
		case "oom_kill":
			number(rest, 1, metric.HostOOMKills, emit)
		}
	}
	return nil
}

// pressure reads the stall times; a kernel without them (CONFIG_PSI, psi=0)
// has no directory or does not support the read.
func (c *collector) pressure(_ context.Context, emit gauge) error {
	for _, resource := range []string{"cpu", "memory", "io", "irq"} {
		data, err := c.read.Read(c.proc("pressure/" + resource))
		if missing(err) {
			continue // irq came with 6.1
		}
		if err != nil {
			return err
		}
		sysfile.Pressure(data, func(scope string, seconds float64) {
			if resource == "cpu" && scope == "full" {
				return // always 0 for the whole machine
			}
			emit(metric.HostStall, seconds, c.labels.pair(resource, scope))
		})
	}
	return nil
}

// pair is of for two labels.
func (l labels) pair(a, b string) []string {
	key := a + "\xff" + b
	if known, ok := l[key]; ok {
		return known
	}
	if len(l) >= maxLabels {
		clear(l)
	}
	l[key] = []string{a, b}
	return l[key]
}
