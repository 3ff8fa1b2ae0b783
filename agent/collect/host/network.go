package host

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/metric"
)

// netDef gives the metric of a column of /proc/net/dev, counted behind the
// interface's name.
func netDef(column int) (metric.Def, bool) {
	switch column {
	case 0:
		return metric.HostNetReceived, true
	case 1:
		return metric.HostNetReceives, true
	case 2:
		return metric.HostNetReceiveErrors, true
	case 3:
		return metric.HostNetReceiveDrops, true
	case 8:
		return metric.HostNetSent, true
	case 9:
		return metric.HostNetSends, true
	case 10:
		return metric.HostNetSendErrors, true
	case 11:
		return metric.HostNetSendDrops, true
	}
	return metric.Def{}, false
}

// network reads the interfaces. It reads init's file, since self's is a link
// into the reader's own network, which in a container is not the machine's.
func (c *collector) network(_ context.Context, emit gauge) error {
	data, err := c.read.Read(c.proc("1/net/dev"))
	if missing(err) {
		data, err = c.read.Read(c.proc("net/dev"))
	}
	if err != nil {
		return err
	}
	var names [][]string
	for line := range sysfile.Lines(data) {
		name, rest, ok := bytes.Cut(line, []byte{':'})
		name = bytes.TrimSpace(name)
		if !ok || c.skipped(name) {
			continue // a line of the head
		}
		label := c.labels.of(name)
		var fields [12][]byte
		if sysfile.Fields(rest, fields[:]) < len(fields) {
			return fmt.Errorf("read net/dev: %q is too short", line)
		}
		for i, field := range fields {
			if def, ok := netDef(i); ok {
				value(field, 1, def, label, emit)
			}
		}
		names = append(names, label)
	}
	for _, label := range names {
		c.link(label, emit)
	}
	return nil
}

// link emits whether the interface has a link. A file of an interface that is
// set down cannot be read: then there is nothing to say.
func (c *collector) link(label []string, emit gauge) {
	dir := c.sys("class/net/" + label[0])
	if up, ok := c.read.Uint(dir + "/carrier"); ok {
		emit(metric.HostNetCarrier, float64(up), label)
	}
	if changes, ok := c.read.Uint(dir + "/carrier_changes"); ok {
		emit(metric.HostNetFlaps, float64(changes), label)
	}
}

func (c *collector) skipped(name []byte) bool {
	for _, prefix := range c.config.SkipInterfaces {
		if strings.HasPrefix(string(name), prefix) {
			return true
		}
	}
	return false
}
