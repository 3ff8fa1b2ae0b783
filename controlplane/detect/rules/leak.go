package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// increments is how many block-to-block increments a leak is judged by.
const increments = 8

// LeakSettings says when memory leaks.
type LeakSettings struct {
	// Block is the number of rows whose minimum is taken.
	Block int `yaml:"block"`
	// Least is the number of increments, of the last 8, before which nothing is
	// judged.
	Least int `yaml:"least"`
	// Growing is the share of the increments that must matter.
	Growing float64 `yaml:"growing"`
	// Matters is the least share of the memory for an increment to matter.
	Matters float64 `yaml:"matters"`
	// Growth is the share of the memory that must have been added in all.
	Growth float64 `yaml:"growth"`
	// Steady is the share of the older half's growth that the newer half must
	// have, or the growth is ending.
	Steady float64 `yaml:"steady"`
	// Single is the greatest share of the growth that one increment may have.
	Single float64 `yaml:"single"`
	// Tail is the share of the mean increment that the last one must have where
	// memory has grown since the first row: what fills a cache does too, and ends.
	Tail float64 `yaml:"tail"`
	// RankBlock is Block for what a rank holds more than the median rank: there is
	// less in it that a leak could be confused with.
	RankBlock int `yaml:"rank_block"`
	// RankStraight is the least share that the growth must have of all ups and
	// downs of what a rank holds more than the median rank.
	RankStraight float64 `yaml:"rank_straight"`
	// Slower is by how many times the steps may become longer while the memory
	// of all ranks grows: over it, what grows is the work.
	Slower float64 `yaml:"slower"`
}

func defaultLeak() LeakSettings {
	return LeakSettings{
		Block: 27, Least: 6, Growing: 0.5, Matters: 0.0005, Growth: 0.01, Steady: 0.6, Single: 0.5, Tail: 0.7,
		RankBlock: 16, RankStraight: 0.85, Slower: 1.15,
	}
}

// Leak finds memory that grows and does not stop, of the host and of the GPU.
//
// Method: the minimum of each block of Block rows, which does not see what is
// allocated and freed again; then the increments from block to block, the last
// 8. Growing of them must matter, together they must make Growth, none may be
// most of it (a jump), and the newer half must grow like the older (an
// allocator that settles does not). What has grown since the first row may be a
// cache that fills: it needs all 8 increments and a last one that is no less
// than the others. The evidence has the rate, its range from block to block,
// and the time until the memory has doubled; the limit is not known here.
//
// Of several ranks, each is judged by what it holds more than the median rank,
// in blocks of RankBlock, where ups and downs must not eat up the growth. The
// method above then judges the median rank, unless steps become longer too, and
// a finding of it blames nobody.
//
// What it confuses: a cache that takes more than 9 blocks to fill, and
// sequences that become longer and longer.
func Leak(set LeakSettings) detect.Rule {
	return detect.Rule{
		Code:     "leak",
		Title:    "Memory leak",
		Severity: commonv1.Severity_SEVERITY_CRITICAL,
		New: func() detect.Detector {
			return &leak{set: set, ranks: newLeakyRank(set)}
		},
	}
}

type leak struct {
	set   LeakSettings
	alone leaks      // of a run of one rank
	ranks *leakyRank // of a run of several
	open  bool       // said once in an attempt
	since uint32
}

// leaks is the memory of one rank.
type leaks struct {
	series        detect.Series
	resident, gpu memory
}

// memory is the block minima of one series; times are those of the blocks'
// ends, in seconds.
type memory struct {
	minima [increments + 1]float64
	steps  [increments + 1]int64
	times  [increments + 1]float64
	n      int  // minima
	start  bool // the oldest minimum is the series' first
	rows   int  // of the block that fills
	least  float64
}

// Open tells whether a leak was found in this attempt.
func (d *leak) Open() bool { return d.open || d.ranks.open() }

// Observe takes the run's next event.
func (d *leak) Observe(event *commonv1.Event) []*controlv1.Finding {
	if reshapes(event) {
		d.ranks.steps.Clear()
		d.ranks.clear()
	}
	s := event.GetStep()
	if s == nil || (s.ResidentBytes == nil && s.GpuMemoryBytes == nil) {
		return nil
	}
	if found, several := d.ranks.observe(event); several {
		d.alone, d.open = leaks{}, false
		return found
	}
	rank := &d.alone
	switch rank.series.Take(event.GetAttempt(), s.GetStep()) {
	case detect.Skip:
		return nil
	case detect.Restart:
		rank.resident, rank.gpu = memory{}, memory{}
	}
	if event.GetAttempt() > d.since {
		d.since, d.open = event.GetAttempt(), false
	}
	t := seconds(event)
	leaks := s.ResidentBytes != nil && rank.resident.add(d.set, 0, s.GetStep(), t, float64(s.GetResidentBytes()))
	leaksGPU := s.GpuMemoryBytes != nil && rank.gpu.add(d.set, 0, s.GetStep(), t, float64(s.GetGpuMemoryBytes()))
	switch {
	case d.open:
		return nil
	case leaks:
		return d.finding(event, &rank.resident, leakKind(0))
	case leaksGPU:
		return d.finding(event, &rank.gpu, leakKind(1))
	}
	return nil
}

func (d *leak) finding(event *commonv1.Event, m *memory, what string) []*controlv1.Finding {
	d.open = true
	f := leakFinding(d.set, event, m, event.GetStep().GetStep())
	f.Summary = leakSentence(f, who(event), what)
	return []*controlv1.Finding{f}
}

// seconds is an event's time in seconds.
func seconds(event *commonv1.Event) float64 {
	return float64(event.GetTime().GetSeconds()) + float64(event.GetTime().GetNanos())/1e9
}

// add takes a value and tells whether the memory leaks by now: grows, and
// straight is the least share of the growth in all ups and downs.
func (m *memory) add(set LeakSettings, straight float64, step int64, t, bytes float64) bool {
	if m.rows == 0 || bytes < m.least {
		m.least = bytes
	}
	if m.rows++; m.rows < set.Block {
		return false
	}
	if m.n == len(m.minima) {
		copy(m.minima[:], m.minima[1:])
		copy(m.steps[:], m.steps[1:])
		copy(m.times[:], m.times[1:])
		m.n--
		m.start = false
	}
	if m.n == 0 {
		m.start = true
	}
	m.minima[m.n], m.steps[m.n], m.times[m.n] = m.least, step, t
	m.n, m.rows = m.n+1, 0
	return m.leaks(set, straight)
}

func (m *memory) leaks(set LeakSettings, straight float64) bool {
	count := m.n - 1
	if count < set.Least || m.minima[0] <= 0 {
		return false
	}
	total, largest, older, path, growing := 0.0, 0.0, 0.0, 0.0, 0
	for i := range count {
		grown := m.minima[i+1] - m.minima[i]
		total, largest, path = total+grown, max(largest, grown), path+math.Abs(grown)
		if i < count/2 {
			older += grown
		}
		if grown > set.Matters*m.minima[i] {
			growing++
		}
	}
	newer, last := total-older, m.minima[count]-m.minima[count-1]
	if m.start && m.minima[1]-m.minima[0] > set.Matters*m.minima[0] && m.minima[2]-m.minima[1] > set.Matters*m.minima[1] {
		if count < increments || last < set.Tail*total/float64(count) {
			return false
		}
	}
	return float64(growing) >= set.Growing*float64(count) && total > set.Growth*m.minima[0] &&
		newer >= set.Steady*older && largest <= set.Single*total && total >= straight*path
}

// leakFinding is the finding that a memory gives at a step; event is the one
// that shows it.
func leakFinding(set LeakSettings, event *commonv1.Event, m *memory, step int64) *controlv1.Finding {
	first, last := 0, m.n-1
	for first < last-1 && m.minima[first+1]-m.minima[first] <= set.Matters*m.minima[first] {
		first++
	}
	f := detect.FindingOf(event, m.steps[first], step)
	grown, steps := m.minima[last]-m.minima[first], m.steps[last]-m.steps[first]
	f.Evidence = map[string]float64{"bytes": m.minima[last], "bytes_grown": grown, "bytes_per_step": grown / float64(max(1, steps))}
	if elapsed := m.times[last] - m.times[first]; elapsed > 0 {
		f.Evidence["bytes_per_second"] = grown / elapsed
		f.Evidence["seconds_until_doubled"] = m.minima[last] / (grown / elapsed)
	}
	low, high := math.Inf(1), math.Inf(-1)
	for i := first; i < last; i++ {
		rate := (m.minima[i+1] - m.minima[i]) / float64(max(1, m.steps[i+1]-m.steps[i]))
		low, high = min(low, rate), max(high, rate)
	}
	f.Evidence["bytes_per_step_low"], f.Evidence["bytes_per_step_high"] = low, high
	return f
}

// leakSentence says it of someone's memory.
func leakSentence(f *controlv1.Finding, who, what string) string {
	verb := "holds"
	if len(f.GetRanks()) > 1 {
		verb = "hold"
	}
	return fmt.Sprintf("%s %s %.1f MB more %s than at step %d, growing by %.1f kB a step, and no sign of an end at step %d.",
		who, verb, f.GetEvidence()["bytes_grown"]/1e6, what, f.GetOnsetStep(), f.GetEvidence()["bytes_per_step"]/1e3, f.GetStep())
}
