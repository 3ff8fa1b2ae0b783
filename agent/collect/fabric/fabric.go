// Package fabric measures the ports of InfiniBand and RoCE adapters, from
// /sys/class/infiniband: state, rate, traffic, link flaps and errors.
package fabric

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the collector's entry in the catalogue.
var Kind = plug.Of("fabric", Config{Sys: "/sys"}, New)

// Config is what users say about the collector. In a container the machine's
// own /sys is mounted somewhere else.
type Config struct {
	Sys string `yaml:"sys"`
}

// Check reports a path that is empty.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Sys == "" {
		report("sys", "is empty; want a directory")
	}
}

type collector struct {
	dir   string
	read  sysfile.Reader
	ports []port
	names []string // of the adapters that ports are of
}

// port is a port and what can be read of it. Which counters there are depends
// on the adapter, so that is found out once.
type port struct {
	device   string
	labels   []string
	dir      string
	counters []counter
}

type counter struct {
	path   string
	def    metric.Def
	factor float64
	labels []string
}

// New makes the collector.
func New(config Config, _ collect.Deps) (collect.Collector, error) {
	return &collector{dir: config.Sys + "/class/infiniband"}, nil
}

// Collect measures every port. It says Unsupported where there is no adapter.
func (c *collector) Collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	names, err := c.read.Names(c.dir)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && len(names) == 0) {
		c.ports, c.names = nil, nil
		return collect.Unsupported, nil
	}
	if err != nil {
		return collect.Unknown, err
	}
	slices.Sort(names)
	var wrong error
	if !slices.Equal(names, c.names) {
		if wrong = c.find(names); wrong == nil {
			c.names = names
		}
	}
	for _, p := range c.ports {
		if err := ctx.Err(); err != nil {
			return collect.Unknown, errors.Join(wrong, err)
		}
		if err := c.measure(p, emit); err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("measure port %s of %s: %w", p.labels[1], p.device, err))
			c.names = nil // an adapter that was taken out is looked for again
		}
	}
	if wrong != nil {
		return collect.Unknown, wrong
	}
	return collect.Ok, nil
}

// find makes the list of ports and their counters.
func (c *collector) find(devices []string) error {
	c.ports = nil
	var wrong error
	for _, device := range devices {
		dir := c.dir + "/" + device + "/ports"
		numbers, err := c.read.Names(dir)
		if err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("list ports of %s: %w", device, err))
			continue
		}
		slices.Sort(numbers)
		for _, number := range numbers {
			p := port{device: device, labels: []string{device, number}, dir: dir + "/" + number}
			for _, known := range counters() {
				if _, err := c.read.Read(p.dir + "/" + known.path); err != nil {
					continue
				}
				found := known
				found.path = p.dir + "/" + known.path
				found.labels = append(slices.Clone(p.labels), known.labels...)
				p.counters = append(p.counters, found)
			}
			c.ports = append(c.ports, p)
		}
	}
	return wrong
}

// counters is the files that are read. Names and meanings are the kernel's:
// Documentation/ABI/stable/sysfs-class-infiniband, and for those in
// hw_counters the drivers'.
func counters() []counter {
	all := []counter{
		{path: "counters/port_rcv_data", def: metric.FabricReceived, factor: 4}, // in words of 32 bits
		{path: "counters/port_xmit_data", def: metric.FabricSent, factor: 4},
		{path: "counters/port_xmit_wait", def: metric.FabricWait, factor: 1},
		{path: "counters/link_downed", def: metric.FabricDowned, factor: 1},
	}
	for _, name := range append(LinkErrors(), PacketErrors()...) {
		for _, dir := range []string{"counters/", "hw_counters/"} {
			all = append(all, counter{path: dir + name, def: metric.FabricErrors, factor: 1, labels: []string{name}})
		}
	}
	return all
}

// LinkErrors is the counters that say that the link itself, a cable or its
// module is bad.
func LinkErrors() []string {
	return []string{
		"symbol_error", "link_error_recovery", "local_link_integrity_errors", "excessive_buffer_overrun_errors",
	}
}

// PacketErrors is the counters of packets that were lost, broken or sent
// again.
func PacketErrors() []string {
	return []string{
		"port_rcv_errors", "port_rcv_remote_physical_errors", "port_rcv_switch_relay_errors",
		"port_xmit_discards", "port_rcv_constraint_errors", "port_xmit_constraint_errors", "VL15_dropped",
		"out_of_sequence", "packet_seq_err", "local_ack_timeout_err", "rnr_nak_retry_err",
		"rx_icrc_encapsulated", "req_transport_retries_exceeded", "duplicate_request",
	}
}

func (c *collector) measure(p port, emit func(metric.Sample)) error {
	data, err := c.read.Read(p.dir + "/state")
	if err != nil {
		return err
	}
	digits, _, _ := bytes.Cut(data, []byte{':'}) // "4: ACTIVE"
	state, ok := sysfile.Uint(digits)
	if !ok {
		return fmt.Errorf("read state: %q does not begin with a number", data)
	}
	emit(metric.Sample{Def: metric.FabricState, Labels: p.labels, Value: float64(state)})
	if data, err = c.read.Read(p.dir + "/rate"); err == nil {
		if rate, ok := readRate(data); ok {
			emit(metric.Sample{Def: metric.FabricRate, Labels: p.labels, Value: rate})
		}
	}
	for _, counter := range p.counters {
		if n, ok := c.read.Uint(counter.path); ok {
			emit(metric.Sample{Def: counter.def, Labels: counter.labels, Value: float64(n) * counter.factor})
		}
	}
	return nil
}

// readRate reads "400 Gb/sec (4X NDR)" or "2.5 Gb/sec (1X SDR)", in bits a
// second.
func readRate(data []byte) (float64, bool) {
	number, rest := sysfile.Field(data)
	unit, _ := sysfile.Field(bytes.TrimSpace(rest))
	rate, err := strconv.ParseFloat(string(number), 64)
	if err != nil || rate < 0 || string(unit) != "Gb/sec" {
		return 0, false
	}
	return rate * 1e9, true
}

// StateName is the kernel's word for a port's state (enum ib_port_state); a
// number that is none gives "".
func StateName(state int) string {
	switch state {
	case 0:
		return "NOP"
	case 1:
		return "DOWN"
	case 2:
		return "INIT"
	case 3:
		return "ARMED"
	case 4:
		return "ACTIVE"
	case 5:
		return "ACTIVE_DEFER"
	}
	return ""
}
