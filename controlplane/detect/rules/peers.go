package rules

import (
	"math"
	"slices"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// wholeNode is the share of a node's ranks that make it a slow node.
	wholeNode = 0.75
	// alike is the share of the first rank's excess from which on another rank of
	// its node has the same trouble.
	alike = 0.5
	// calmRows is for how many rows a rank must be like the others again.
	calmRows = 64
)

// peers compares each rank of a run with the median rank at the same step: the
// machine that straggler and starvation have in common.
type peers struct {
	set   detect.ExcessSettings
	pool  detect.Pool
	ranks []peer
	open  int // ranks that were found and have not recovered
	steps [64]int64
	n     int
}

type peer struct {
	excess detect.Excess
	open   bool
	calm   int // rows in a row that are as they should be, of one that was found
}

// culprit is who exceeds the others, and since when.
type culprit struct {
	places  []int
	whole   bool // the node's ranks are slow together
	onset   int64
	rows    int     // since then
	mean    float64 // of the excess
	verdict detect.Judgement
}

func (p *peers) clear() { *p = peers{set: p.set} }

// judge takes each rank's excess over the median rank at a step, NaN where it
// is not known, and gives the rank that stands out anew. May is asked before a
// rank is blamed.
func (p *peers) judge(step int64, excess []float64, node func(int) string, may func(place int) bool) (culprit, bool) {
	for len(p.ranks) < len(excess) {
		p.ranks = append(p.ranks, peer{})
	}
	p.steps[p.n%len(p.steps)] = step
	p.n++
	limit := p.set.Limit(len(p.ranks))
	worst, first := detect.Judgement{}, -1
	for place, x := range excess {
		if math.IsNaN(x) {
			continue
		}
		rank := &p.ranks[place]
		rank.excess.Add(p.set, &p.pool, x, !rank.open)
		verdict := rank.excess.Judge(p.set, &p.pool)
		if rank.open {
			p.follow(rank, verdict.Score < limit/2)
			continue
		}
		if verdict.Score >= limit && verdict.Score > worst.Score && may(place) {
			worst, first = verdict, place
		}
	}
	if first < 0 {
		return culprit{}, false
	}
	c := culprit{places: []int{first}, verdict: worst}
	c.rows, c.mean = p.ranks[first].excess.Since(worst)
	c.onset = p.steps[(p.n-max(1, min(c.rows, p.n)))%len(p.steps)]
	joins := p.companions(&c, limit, node)
	for _, place := range c.places {
		p.found(place)
	}
	return c, !joins
}

// found opens a rank's problem.
func (p *peers) found(place int) {
	if rank := &p.ranks[place]; !rank.open {
		rank.open, rank.calm = true, 0
		p.open++
	}
}

// follow ends a rank's problem once it has been like the others for long.
func (p *peers) follow(rank *peer, calm bool) {
	if !calm {
		rank.calm = 0
		return
	}
	if rank.calm++; rank.calm < calmRows {
		return
	}
	rank.open = false
	rank.excess.Forget()
	p.open--
}

// companions adds the ranks that have the same trouble: the others of the node
// where they are slow too, and those that stand out by themselves. It tells
// whether the first only joins a problem of its node that is known.
func (p *peers) companions(c *culprit, limit float64, node func(int) string) (joins bool) {
	first, of := c.places[0], node(c.places[0])
	all, slow := []int{first}, 1
	for place := range p.ranks {
		rank := &p.ranks[place]
		if place == first {
			continue
		}
		if of != "" && node(place) == of {
			all = append(all, place)
			joins = joins || rank.open
			if !rank.open && rank.excess.Mean(p.set, &p.pool, c.verdict.Rows) >= alike*c.verdict.Excess {
				slow++
			}
			continue
		}
		if !rank.open && rank.excess.N() > 0 && rank.excess.Judge(p.set, &p.pool).Score >= limit {
			c.places = append(c.places, place)
		}
	}
	if slow > 1 && float64(slow) >= wholeNode*float64(len(all)) {
		c.whole, c.places = true, all
	}
	slices.Sort(c.places)
	return joins
}

// blame names the ranks of some places and, where they are of one node, the
// node.
func blame[T any](f *controlv1.Finding, l *detect.Lockstep[T], places []int) {
	named(f, len(places), func(i int) (uint32, string) { return l.Rank(places[i]), l.Node(places[i]) })
}

// named names n ranks and, where they are of one node, the node; with n = 0
// nobody is to blame.
func named(f *controlv1.Finding, n int, of func(int) (uint32, string)) {
	if n == 0 {
		f.Rank, f.Node, f.BlameUnknown = 0, "", true
		return
	}
	ranks := make([]uint32, 0, n)
	_, node := of(0)
	for i := range n {
		rank, on := of(i)
		ranks = append(ranks, rank)
		if on != node {
			node = ""
		}
	}
	slices.Sort(ranks)
	f.Rank, f.Node = ranks[0], node
	if len(ranks) > 1 {
		f.Ranks = ranks
	}
}

// lowerMedian is the median of what is not NaN, the lower one of two: with two
// ranks the faster one is what is usual. It reorders scratch, and is NaN where
// there is nothing.
func lowerMedian(scratch []float64) float64 { return quantile(scratch, true) }

// upperMedian is the same, the upper one of two.
func upperMedian(scratch []float64) float64 { return quantile(scratch, false) }

func quantile(scratch []float64, lower bool) float64 {
	scratch = slices.DeleteFunc(scratch, math.IsNaN)
	n := len(scratch)
	if n == 0 {
		return math.NaN()
	}
	slices.Sort(scratch)
	if lower {
		return scratch[(n-1)/2]
	}
	return scratch[n/2]
}

// reshapes tells whether an event declares that ranks come or go.
func reshapes(event *commonv1.Event) bool {
	p := event.GetPhase()
	return p.GetKind() == commonv1.PhaseKind_PHASE_KIND_WORLD_SIZE_CHANGE && p.GetEdge() == commonv1.PhaseEdge_PHASE_EDGE_BEGIN
}
