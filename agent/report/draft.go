package report

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// draft is a report while it is made.
type draft struct {
	report *commonv1.NodeReport
	shares shares

	mounts    map[string]*commonv1.FileSystemReport
	gpus      map[uint32]*commonv1.GpuReport
	ports     map[string]*commonv1.PortReport
	processes map[rank]*commonv1.ProcessReport
	groups    map[rank]group
	busy, all float64 // CPU time
	cpus      bool
}

// rank is whose process it is.
type rank struct {
	run    string
	number uint32
}

// group is what a control group said.
type group struct {
	used, limit *int64
}

func newDraft(report *commonv1.NodeReport, shares shares, trainers []collect.Trainer) *draft {
	d := &draft{
		report: report, shares: shares,
		mounts: map[string]*commonv1.FileSystemReport{}, gpus: map[uint32]*commonv1.GpuReport{},
		ports: map[string]*commonv1.PortReport{}, processes: map[rank]*commonv1.ProcessReport{}, groups: map[rank]group{},
	}
	for _, t := range trainers {
		who := rank{t.RunID, t.Rank}
		if other := d.processes[who]; other == nil || other.Attempt < t.Attempt {
			d.processes[who] = &commonv1.ProcessReport{RunId: t.RunID, Attempt: t.Attempt, Rank: t.Rank, Pid: t.PID}
		}
	}
	return d
}

func (d *draft) mount(path string) *commonv1.FileSystemReport {
	if d.mounts[path] == nil {
		d.mounts[path] = &commonv1.FileSystemReport{Mount: path}
	}
	return d.mounts[path]
}

// gpu gives the report of a GPU by its label; nil when that is no index.
func (d *draft) gpu(label string) *commonv1.GpuReport {
	index, err := strconv.ParseUint(label, 10, 32)
	if err != nil {
		return nil
	}
	if d.gpus[uint32(index)] == nil {
		d.gpus[uint32(index)] = &commonv1.GpuReport{Index: uint32(index)}
	}
	return d.gpus[uint32(index)]
}

func (d *draft) port(device, number string) *commonv1.PortReport {
	key := device + "\xff" + number
	if d.ports[key] == nil {
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return nil
		}
		d.ports[key] = &commonv1.PortReport{Device: device, Port: uint32(n)}
	}
	return d.ports[key]
}

// rankOf reads the labels run and rank.
func rankOf(s metric.Sample) (rank, bool) {
	n, err := strconv.ParseUint(s.Labels[1], 10, 32)
	return rank{s.Labels[0], uint32(n)}, err == nil
}

// process gives the report of a trainer that is registered, nil of another.
func (d *draft) process(s metric.Sample) *commonv1.ProcessReport {
	who, ok := rankOf(s)
	if !ok {
		return nil
	}
	return d.processes[who]
}

// finish puts the parts in order.
func (d *draft) finish() {
	if d.cpus {
		if busy, ok := d.shares.of("cpu", d.busy, d.all); ok {
			d.report.CpuBusyRatio = &busy
		}
	}
	for _, m := range d.mounts {
		if m.SizeBytes > 0 { // without its size, what is available says nothing
			d.report.FileSystems = append(d.report.FileSystems, m)
		}
	}
	slices.SortFunc(d.report.FileSystems, func(a, b *commonv1.FileSystemReport) int { return cmp.Compare(a.Mount, b.Mount) })
	for _, g := range d.gpus {
		slices.Sort(g.Throttle)
		slices.Sort(g.Pids)
		d.report.Gpus = append(d.report.Gpus, g)
	}
	slices.SortFunc(d.report.Gpus, func(a, b *commonv1.GpuReport) int { return cmp.Compare(a.Index, b.Index) })
	for _, p := range d.ports {
		d.report.Ports = append(d.report.Ports, p)
	}
	slices.SortFunc(d.report.Ports, func(a, b *commonv1.PortReport) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Port, b.Port))
	})
	for who, p := range d.processes {
		if g, ok := d.group(who); ok {
			p.CgroupMemoryBytes, p.MemoryLimitBytes = g.used, g.limit
		}
		d.report.Processes = append(d.report.Processes, p)
	}
	slices.SortFunc(d.report.Processes, func(a, b *commonv1.ProcessReport) int {
		return cmp.Or(cmp.Compare(a.RunId, b.RunId), cmp.Compare(a.Rank, b.Rank))
	})
}

// group gives the control group of a rank: ranks that share one are measured
// once, under the lowest of them, so it is that of the nearest rank below.
func (d *draft) group(who rank) (nearest group, found bool) {
	best := uint32(0)
	for other, g := range d.groups {
		if other.run == who.run && other.number <= who.number && (!found || other.number > best) {
			nearest, best, found = g, other.number, true
		}
	}
	return nearest, found
}

// seconds is a sample's time, as shares of time are taken of it.
func seconds(s metric.Sample) float64 {
	return float64(s.Time.UnixNano()) / float64(time.Second)
}
