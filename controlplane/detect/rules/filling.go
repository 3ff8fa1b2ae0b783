package rules

import (
	"fmt"
	"slices"
	"time"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// FillingSettings says when something fills up.
type FillingSettings struct {
	// Every is the time between the points that are looked at, in seconds; there
	// are 14 of them.
	Every float64 `yaml:"every"`
	// Warn is the time to full, in seconds, from which on it is a warning.
	Warn float64 `yaml:"warn"`
	// Critical is the time to full, in seconds, from which on it is critical.
	Critical float64 `yaml:"critical"`
	// Growing is the share of increments that must be growth.
	Growing float64 `yaml:"growing"`
	// Single is the greatest share that one increment may have of the growth.
	Single float64 `yaml:"single"`
}

// points is how many values a trend is made of.
const points = 14

// trend is the last few values of something that may fill up.
type trend struct {
	values, times [points]float64
	n             int
}

// add takes a value and, when a point's time has come, gives true.
func (t *trend) add(every, now, value float64) bool {
	if t.n > 0 {
		gap := now - t.times[t.n-1]
		if gap < 0 || gap > 3*every {
			t.n = 0 // what happened meanwhile is not known
		} else if gap < every {
			return false
		}
	}
	if t.n == points {
		copy(t.values[:], t.values[1:])
		copy(t.times[:], t.times[1:])
		t.n--
	}
	t.values[t.n], t.times[t.n] = value, now
	t.n++
	return true
}

// rate is by how much a second it grows: the median of the slopes between all
// pairs of points (P. K. Sen, Estimates of the Regression Coefficient Based on
// Kendall's Tau, J. Am. Stat. Assoc. 63, 1968), which a jump does not move. It is
// 0 where it does not grow steadily: too few increments grow, or one is most of
// the growth.
func (t *trend) rate(set FillingSettings) float64 {
	if t.n < points {
		return 0
	}
	growing, largest, total := 0, 0.0, t.values[t.n-1]-t.values[0]
	for i := 1; i < t.n; i++ {
		grown := t.values[i] - t.values[i-1]
		largest = max(largest, grown)
		if grown > 0 {
			growing++
		}
	}
	if total <= 0 || float64(growing) < set.Growing*float64(t.n-1) || largest > set.Single*total {
		return 0
	}
	var slopes [points * (points - 1) / 2]float64
	k := 0
	for i := range t.n {
		for j := i + 1; j < t.n; j++ {
			slopes[k] = (t.values[j] - t.values[i]) / (t.times[j] - t.times[i])
			k++
		}
	}
	slices.Sort(slopes[:k])
	return max(0, slopes[k/2])
}

// filling is one thing that may fill up.
type filling struct {
	trend
	problem *detect.Problem
}

// judge takes how much is used and left; say gives the finding from the rate
// and the seconds to full.
func (s *filling) judge(n *detect.Node, set FillingSettings, used, left float64, say func(rate, seconds float64) *controlv1.Finding) {
	if !s.add(set.Every, n.Now(), used) {
		return
	}
	rate := s.rate(set)
	seconds := left / max(rate, 1e-9)
	v := detect.Verdict{Fine: rate == 0 || seconds > 1.5*set.Warn, Release: 2 * set.Every}
	switch {
	case rate > 0 && seconds <= set.Critical:
		v.Severity = critical
	case rate > 0 && seconds <= set.Warn:
		v.Severity = warning
	}
	s.problem.Judge(n, v, func() *controlv1.Finding {
		f := say(rate, seconds)
		f.Evidence = map[string]float64{"bytes_per_second": rate, "seconds_to_full": seconds, "available_bytes": left}
		return f
	})
}

// soon is a time to come in words.
func soon(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Minute).String()
}

// DiskFilling finds file systems that will be full soon.
//
// Method: the space in use, every Every seconds (default 120), 14 points; the
// rate is the median slope. It must grow in Growing (default 0.6) of the
// increments and none may be over Single (default 0.4) of the growth, so that
// one checkpoint is no trend. The time to full at that rate is a warning from
// Warn (default 4 h) and critical from Critical (default 30 min) on.
//
// What it confuses: checkpoints that are kept at first and deleted from the
// third or fourth on, when they come every few minutes.
func DiskFilling(set FillingSettings) detect.NodeRule {
	return detect.NodeRule{Code: "disk-filling", Title: "Disk fills up", New: func() detect.NodeDetector {
		return &diskFilling{set: set}
	}}
}

type diskFilling struct {
	set    FillingSettings
	mounts parts[filling]
}

// Observe takes the node's next event.
func (d *diskFilling) Observe(event *commonv1.Event, n *detect.Node) {
	for i, fs := range event.GetNodeReport().GetFileSystems() {
		if fs.GetSizeBytes() <= 0 {
			continue
		}
		s := d.mounts.of(i, fs.GetMount(), func() *filling { return &filling{problem: n.Problem(fs.GetMount())} })
		left := float64(fs.GetAvailableBytes())
		s.judge(n, d.set, float64(fs.GetSizeBytes())-left, left, func(rate, seconds float64) *controlv1.Finding {
			return n.Finding(fs.GetMount(), "File system %s of %s fills by %.1f MB/s and will be full in %s.",
				fs.GetMount(), n.Name, rate/1e6, soon(seconds))
		})
	}
}

// MemoryFilling finds memory of a node, or of a job's cgroup, that will run out.
//
// Method: as for disks, of what the machine uses and, where a training process
// is in a cgroup with a limit, of what the cgroup uses; a warning from Warn
// (default 2 h) and critical from Critical (default 15 min) to the limit on. It
// names the training process that grew most. A run's own leak rule sees what a
// process holds; this one sees what kills it.
//
// What it confuses: a cache in shared memory that takes half an hour to fill.
func MemoryFilling(set FillingSettings) detect.NodeRule {
	return detect.NodeRule{
		Code: "memory-filling", Title: "Memory runs out", Explains: []string{kindCrash},
		New: func() detect.NodeDetector { return &memoryFilling{set: set, jobs: map[int64]*filling{}} },
	}
}

type memoryFilling struct {
	set  FillingSettings
	host filling
	jobs map[int64]*filling // by process, those with a limit
}

// Observe takes the node's next event.
func (d *memoryFilling) Observe(event *commonv1.Event, n *detect.Node) {
	r := event.GetNodeReport()
	if r == nil {
		return
	}
	if r.MemoryAvailableBytes != nil && r.GetMemoryTotalBytes() > 0 {
		if d.host.problem == nil {
			d.host.problem = n.Problem("host")
		}
		left := float64(r.GetMemoryAvailableBytes())
		d.host.judge(n, d.set, float64(r.GetMemoryTotalBytes())-left, left, func(rate, seconds float64) *controlv1.Finding {
			return n.Finding("host", "The memory of %s fills by %.1f MB/s and will be used up in %s.", n.Name, rate/1e6, soon(seconds))
		})
	}
	for _, p := range r.GetProcesses() {
		if p.GetMemoryLimitBytes() > 0 && p.CgroupMemoryBytes != nil {
			d.job(n, p)
		}
	}
	for pid, s := range d.jobs {
		if _, _, ok := n.Process(pid); !ok {
			s.problem.Gone(n)
			delete(d.jobs, pid)
		}
	}
}

func (d *memoryFilling) job(n *detect.Node, p *commonv1.ProcessReport) {
	s := d.jobs[p.GetPid()]
	if s == nil {
		s = &filling{problem: n.Problem(fmt.Sprintf("pid%d", p.GetPid()))}
		d.jobs[p.GetPid()] = s
	}
	left := float64(p.GetMemoryLimitBytes() - p.GetCgroupMemoryBytes())
	s.judge(n, d.set, float64(p.GetCgroupMemoryBytes()), left, func(rate, seconds float64) *controlv1.Finding {
		f := n.Finding("cgroup", "The memory of run %s rank %d (process %d on %s) grows by %.1f MB/s and reaches its limit of %.1f GB in %s.",
			p.GetRunId(), p.GetRank(), p.GetPid(), n.Name, rate/1e6, float64(p.GetMemoryLimitBytes())/1e9, soon(seconds))
		f.Pid, f.Rank, f.AffectedRuns = p.GetPid(), p.GetRank(), []string{p.GetRunId()}
		return f
	})
}
