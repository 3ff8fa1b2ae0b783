package host

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/metric"
)

// sectorBytes is the unit of /proc/diskstats, whatever the device's own is.
const sectorBytes = 512

// blocks remembers which block devices are whole: a name never changes from a
// disk's to a partition's while the machine runs.
type blocks struct {
	whole map[string]bool
}

// devices emits what whole block devices did; partitions, loop devices and RAM
// disks are left out.
func (c *collector) devices(_ context.Context, emit gauge) error {
	data, err := c.read.Read(c.proc("diskstats"))
	if err != nil {
		return err
	}
	for line := range sysfile.Lines(data) {
		var f [13][]byte
		if sysfile.Fields(line, f[:]) < len(f) {
			return fmt.Errorf("read diskstats: %q is too short", line)
		}
		if !c.isDisk(f[2]) {
			continue
		}
		label := c.labels.of(f[2])
		for i, column := range [...]struct {
			def    metric.Def
			factor float64
		}{
			{metric.HostDiskReads, 1}, {}, {metric.HostDiskRead, sectorBytes}, {metric.HostDiskReadTime, 1e-3},
			{metric.HostDiskWrites, 1}, {}, {metric.HostDiskWritten, sectorBytes}, {metric.HostDiskWriteTime, 1e-3},
			{metric.HostDiskQueue, 1}, {metric.HostDiskBusy, 1e-3},
		} {
			if column.factor != 0 {
				value(f[3+i], column.factor, column.def, label, emit)
			}
		}
	}
	return nil
}

// isDisk tells whether a device is a whole one with data of its own: those
// alone stand in /sys/block.
func (c *collector) isDisk(name []byte) bool {
	whole, known := c.blocks.whole[string(name)]
	if known {
		return whole
	}
	if c.blocks.whole == nil || len(c.blocks.whole) >= maxLabels {
		c.blocks.whole = map[string]bool{}
	}
	device := string(name)
	var stat unix.Stat_t
	whole = !madeOfMemoryOrFiles(device) && unix.Stat(c.sys("block/"+strings.ReplaceAll(device, "/", "!")), &stat) == nil
	c.blocks.whole[device] = whole
	return whole
}

func madeOfMemoryOrFiles(device string) bool {
	for _, prefix := range []string{"loop", "ram", "zram"} {
		if strings.HasPrefix(device, prefix) {
			return true
		}
	}
	return false
}
