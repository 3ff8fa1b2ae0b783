// Package ranksim makes up training runs of very many ranks in which one thing
// goes wrong at a known rank and step, and says what the detection rules make
// of them. Recorded runs of ten thousand ranks are not to be had; what is
// realistic here is the noise: ranks that differ, hosts that stutter, rows that
// come late or never, checkpoints that only rank 0 writes.
package ranksim

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Fault is what goes wrong in a run.
type Fault string

// The faults. A hang's rank stops: silently, while it computes, while it loads
// data, or a step ahead of the others; or all ranks wait and none is to blame.
const (
	Healthy      Fault = "healthy"
	Straggler    Fault = "straggler"
	Intermittent Fault = "straggler, some steps"
	SlowNode     Fault = "straggler, a node"
	Starvation   Fault = "starvation"
	Bursty       Fault = "starvation, in bursts"
	Silent       Fault = "hang, silent"
	LostNode     Fault = "hang, a node silent"
	Computing    Fault = "hang, computing"
	Loading      Fault = "hang, loading"
	Ahead        Fault = "hang, a step ahead"
	Waiting      Fault = "hang, all wait"
	NotFinite    Fault = "nonfinite"
	Leaking      Fault = "leak"
)

// Faults is every fault.
func Faults() []Fault {
	return []Fault{
		Healthy, Straggler, Intermittent, SlowNode, Starvation, Bursty,
		Silent, LostNode, Computing, Loading, Ahead, Waiting, NotFinite, Leaking,
	}
}

// Case is a run to be made up: the same for the same values.
type Case struct {
	Fault Fault
	// Ranks is the number of ranks; 8 of them, or the last fewer, share a node.
	Ranks int
	// Steps is how many steps the run makes, if nothing stops it; at least 220
	// for every fault to be seen.
	Steps int
	// Seed is that of the noise, the fault's place and its moment.
	Seed uint64
}

const (
	perNode = 8
	// stepSeconds is the time that a rank computes in a step.
	stepSeconds = 0.4
	// tickSeconds is the time between two heartbeats of a rank.
	tickSeconds = 5.0
	// stillSeconds is for how long a run that hangs is looked at.
	stillSeconds = 240.0
)

// truth is where and when the fault is.
type truth struct {
	onset  int64
	places map[int]bool
	factor float64 // of a straggler
}

func (c Case) truth(random *rand.Rand) truth {
	t := truth{onset: 60 + int64(random.IntN(40)), places: map[int]bool{}, factor: 1.25 + 0.75*random.Float64()}
	place := random.IntN(c.Ranks)
	switch c.Fault {
	case Healthy, Waiting:
	case SlowNode, LostNode:
		for p := place / perNode * perNode; p < min(c.Ranks, (place/perNode+1)*perNode); p++ {
			t.places[p] = true
		}
	default:
		t.places[place] = true
	}
	return t
}

// rank is what makes one rank differ from the others for good.
type rank struct {
	bias, scatter float64 // of the logarithm of its compute time
	resident      float64 // bytes
	saw           float64 // bytes that its memory rises by before they are freed
	storm         int     // steps that a disturbance of its host still lasts
}

// row is a step of a rank, in seconds and bytes.
type row struct {
	compute, data, communicate, step, loss, norm, resident float64
}

// sim is a run in progress.
type sim struct {
	Case
	random *rand.Rand
	truth  truth
	ranks  []rank
	rows   []row
	now    float64
}

func newSim(c Case) *sim {
	random := rand.New(rand.NewPCG(c.Seed, uint64(c.Ranks)))
	s := &sim{Case: c, random: random, ranks: make([]rank, c.Ranks), rows: make([]row, c.Ranks)}
	s.truth = c.truth(random)
	for i := range s.ranks {
		s.ranks[i] = rank{
			bias: 0.02 * random.NormFloat64(), scatter: 0.04 + 0.08*random.Float64(),
			resident: 8e9 * (1 + 0.01*random.Float64()), saw: 6e7 * float64(random.IntN(2)),
		}
	}
	return s
}

// step makes a step of all ranks: each loads, computes and then waits for the
// last of them.
func (s *sim) step(n int64) {
	common := math.Exp(0.05 * s.random.NormFloat64())
	last := 0.0
	for i := range s.rows {
		s.rows[i] = s.alone(i, n, common)
		last = max(last, s.rows[i].data+s.rows[i].compute)
	}
	const transfer = 0.02
	for i := range s.rows {
		r := &s.rows[i]
		r.communicate = last - r.data - r.compute + transfer*(1+0.2*s.random.Float64())
		r.step = r.data + r.compute + r.communicate
	}
	s.now += last + transfer
	if n%50 == 49 {
		s.now += 8 // rank 0 writes a checkpoint and the others wait
		s.rows[0].compute += 0.01
	}
}

// alone makes what a rank does by itself.
func (s *sim) alone(place int, n int64, common float64) row {
	k, random := &s.ranks[place], s.random
	r := row{
		compute: stepSeconds * common * math.Exp(k.bias+k.scatter*random.NormFloat64()),
		data:    0.004 * math.Exp(0.5*random.NormFloat64()),
		loss:    2 + math.Exp(-float64(n)/50) + 0.05*random.NormFloat64(), norm: math.Exp(0.2 * random.NormFloat64()),
		resident: k.resident + 1e6*random.Float64() + 4e8*(1-math.Exp(-float64(n)/5)) + k.saw*float64((int(n)+place)%40)/40,
	}
	switch u := random.Float64(); {
	case u < 0.004: // a stutter
		r.compute *= 1.1 + 0.25*random.ExpFloat64()
	case u < 0.006: // a slow file
		r.data += 0.5 * stepSeconds * random.Float64()
	case u < 0.0061:
		k.storm = 2 + random.IntN(3)
	}
	if k.storm > 0 {
		k.storm--
		r.compute *= 1.5
	}
	if n >= s.truth.onset && s.truth.places[place] {
		s.spoil(&r, n-s.truth.onset)
	}
	if s.Fault == NotFinite && n > s.truth.onset {
		r.loss, r.norm = math.NaN(), math.NaN() // the gradients were summed
	}
	return r
}

// spoil lets the fault act on a row, so many steps after its onset.
func (s *sim) spoil(r *row, since int64) {
	switch s.Fault {
	case Straggler, SlowNode:
		r.compute *= s.truth.factor
	case Intermittent:
		if since == 0 || s.random.IntN(4) == 0 {
			r.compute *= 2.5
		}
	case Starvation:
		r.data += stepSeconds * (0.3 + 0.3*s.random.Float64())
	case Bursty:
		if since%12 < 4 {
			r.data += stepSeconds * (0.5 + 0.5*s.random.Float64())
		}
	case NotFinite:
		r.loss, r.norm = math.NaN(), math.NaN()
	case Leaking:
		r.resident += 6e6 * float64(since)
	}
}

// hangs tells whether the run stands still from a step on.
func (s *sim) hangs(n int64) bool {
	switch s.Fault {
	case Silent, LostNode, Computing, Loading, Ahead, Waiting:
		return n >= s.truth.onset
	}
	return false
}

// kind is the kind of finding that the fault should give; empty for none.
func (f Fault) kind() string {
	switch f {
	case Straggler, Intermittent, SlowNode:
		return "straggler"
	case Starvation, Bursty:
		return "starvation"
	case Silent, LostNode, Computing, Loading, Ahead, Waiting:
		return "hang"
	case NotFinite:
		return "nonfinite"
	case Leaking:
		return "leak"
	}
	return ""
}

// node is the node of a place.
func node(place int) string { return fmt.Sprintf("node-%d", place/perNode) }
