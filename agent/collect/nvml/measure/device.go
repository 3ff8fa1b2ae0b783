//go:build cgo && linux && !nonvml

package measure

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/metric"
)

// device is one GPU and what is known of how it answers.
type device struct {
	meter  *Meter
	index  int
	handle nvml.Device
	info   uint32  // the series of its names
	states []state // as readings
	gpm    gpm
	groups []*group
	values wire.Values
	buffer [8]float64
}

// state is how one reading went.
type state struct {
	refs []uint32 // 0 for one without a value; none before the first value
	due  time.Time
}

// group is series that come and go, for instance one for each process.
type group struct {
	name   string
	symbol string
	read   func(d *device, put func(def metric.Def, value float64, labels ...string)) nvml.Return
	due    time.Time
	refs   map[string]uint32
}

func newDevice(m *Meter, index int) *device {
	return &device{
		meter: m, index: index, states: make([]state, len(readings)),
		groups: []*group{
			{name: "nvmlDeviceGetComputeRunningProcesses", read: processes, refs: map[string]uint32{}},
			{name: "nvmlDeviceGetMigDeviceHandleByIndex", read: instances, refs: map[string]uint32{}},
			{name: "nvmlDeviceGetP2PStatus", read: peers, refs: map[string]uint32{}},
		},
	}
}

// measure reads everything that is due and sends it.
func (d *device) measure() error {
	d.values.GPU, d.values.Refs, d.values.Values, d.values.Gone = d.index, d.values.Refs[:0], d.values.Values[:0], d.values.Gone[:0]
	wrong := d.open()
	now := d.meter.deps.Clock()
	if d.handle != nil {
		d.meter.enter(d.index, "nvmlGpmSampleGet")
		wrong = errors.Join(wrong, d.gpm.read(d, now))
	}
	for i := range readings {
		if d.handle == nil {
			break
		}
		wrong = errors.Join(wrong, d.read(&readings[i], &d.states[i], now))
	}
	for _, g := range d.groups {
		if d.handle != nil && !now.Before(g.due) {
			wrong = errors.Join(wrong, d.readGroup(g, now))
		}
	}
	if d.handle == nil {
		d.forget()
	}
	d.meter.deps.Send(&d.values)
	return wrong
}

// open finds the GPU and says its names.
func (d *device) open() error {
	if d.handle != nil {
		return nil
	}
	d.meter.enter(d.index, "nvmlDeviceGetHandleByIndex")
	handle, ret := d.meter.deps.Library.DeviceGetHandleByIndex(d.index)
	if ret != nvml.SUCCESS {
		return fmt.Errorf("open GPU: %w", ret)
	}
	d.meter.enter(d.index, "nvmlDeviceGetUUID")
	uuid, ret := handle.GetUUID()
	if ret != nvml.SUCCESS {
		return fmt.Errorf("read UUID: %w", ret)
	}
	d.handle = handle
	model, _ := handle.GetName()
	pci, _ := handle.GetPciInfo()
	vbios, _ := handle.GetVbiosVersion()
	driver, _ := d.meter.deps.Library.SystemGetDriverVersion()
	minor := ""
	if n, ret := handle.GetMinorNumber(); ret == nvml.SUCCESS {
		minor = strconv.Itoa(n)
	}
	d.info = d.meter.define(metric.GPUInfo, d.index, uuid, model, busID(pci), minor, driver, vbios)
	d.put(d.info, 1)
	return nil
}

// busID is a PCI address as NVML writes it.
func busID(info nvml.PciInfo) string {
	text := make([]byte, 0, len(info.BusId))
	for _, c := range info.BusId {
		if c == 0 {
			break
		}
		text = append(text, byte(c))
	}
	return string(text)
}

func (d *device) put(ref uint32, value float64) {
	d.values.Refs = append(d.values.Refs, ref)
	d.values.Values = append(d.values.Values, value)
}

// read makes one reading where it is due.
func (d *device) read(r *reading, s *state, now time.Time) error {
	if now.Before(s.due) || (r.unlessGPM && d.gpm.query != nil) {
		return nil
	}
	s.due = now.Add(r.every)
	if s.refs == nil && (!d.meter.has(r.symbol) || (r.unless != "" && d.meter.has(r.unless))) {
		s.due = now.Add(unsupportedAgain)
		return nil
	}
	d.meter.enter(d.index, r.name)
	switch ret := r.read(d.handle, d.buffer[:len(r.series)]); {
	case ret == nvml.SUCCESS:
		d.take(r, s)
		return nil
	case final(ret):
		d.handle = nil
		return fmt.Errorf("%s: %w", r.name, ret)
	default:
		d.gone(s.refs)
		s.refs = nil
		if absent(ret) {
			s.due = now.Add(unsupportedAgain)
			return nil
		}
		return fmt.Errorf("%s: %w", r.name, ret)
	}
}

// take sends what a reading gave.
func (d *device) take(r *reading, s *state) {
	if s.refs == nil {
		s.refs = make([]uint32, len(r.series))
	}
	for i, series := range r.series {
		switch {
		case math.IsNaN(d.buffer[i]):
			d.gone(s.refs[i : i+1])
			s.refs[i] = 0
			continue
		case s.refs[i] == 0:
			s.refs[i] = d.meter.define(series.def, d.index, series.labels...)
		}
		d.put(s.refs[i], d.buffer[i])
	}
}

// gone ends the series that there are.
func (d *device) gone(refs []uint32) {
	for _, ref := range refs {
		if ref != 0 {
			d.values.Gone = append(d.values.Gone, ref)
		}
	}
}

// readGroup reads series that come and go.
func (d *device) readGroup(g *group, now time.Time) error {
	g.due = now.Add(seldom)
	if !d.meter.has(g.symbol) {
		g.due = now.Add(unsupportedAgain)
		return nil
	}
	d.meter.enter(d.index, g.name)
	seen := map[string]bool{}
	ret := g.read(d, func(def metric.Def, value float64, labels ...string) {
		key := def.Name
		for _, label := range labels {
			key += "\xff" + label
		}
		if g.refs[key] == 0 {
			g.refs[key] = d.meter.define(def, d.index, labels...)
		}
		seen[key] = true
		d.put(g.refs[key], value)
	})
	for key, ref := range g.refs {
		if !seen[key] {
			d.values.Gone = append(d.values.Gone, ref)
			delete(g.refs, key)
		}
	}
	switch {
	case ret == nvml.SUCCESS:
		return nil
	case absent(ret):
		g.due = now.Add(unsupportedAgain)
		return nil
	case final(ret):
		d.handle = nil
	}
	return fmt.Errorf("%s: %w", g.name, ret)
}

// forget starts over with a GPU that is gone: its series end.
func (d *device) forget() {
	d.values.Refs, d.values.Values = d.values.Refs[:0], d.values.Values[:0]
	if d.info != 0 {
		d.values.Gone = append(d.values.Gone, d.info)
		d.info = 0
	}
	for i := range d.states {
		d.gone(d.states[i].refs)
		d.states[i] = state{}
	}
	d.values.Gone = append(d.values.Gone, d.gpm.end()...)
	for _, g := range d.groups {
		for key, ref := range g.refs {
			d.values.Gone = append(d.values.Gone, ref)
			delete(g.refs, key)
		}
		g.due = time.Time{}
	}
}
