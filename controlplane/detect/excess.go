package detect

import (
	"math"
	"math/bits"
)

// recent is how many values an [Excess] judges by; those before make its usual
// level. A bit for each fits into a word.
const recent = 64

// ExcessSettings says what is told from chance.
type ExcessSettings struct {
	// Least is the mean excess below which nothing is judged, in the unit of the
	// values.
	Least float64 `yaml:"least"`
	// Rows is the least number of rows that a mean or a count is taken of.
	Rows int `yaml:"rows"`
	// Clip is how many sigmas a value counts for at most in the mean.
	Clip float64 `yaml:"clip"`
	// Slow is the value from which on a row counts as one that stands out.
	Slow float64 `yaml:"slow"`
	// Usual is the share of rows that stand out that is taken as usual before much
	// is known.
	Usual float64 `yaml:"usual"`
	// Forgiven is the greatest usual excess that is taken as a rank's own way.
	Forgiven float64 `yaml:"forgiven"`
	// Floor is the least scatter, in the unit of the values.
	Floor float64 `yaml:"floor"`
	// Between is the mean number of steps of the whole run between two false
	// alarms, if the noise of one step has nothing to do with that of the next.
	Between float64 `yaml:"between"`
	// Warmup is the number of rows before which nothing is judged.
	Warmup int `yaml:"warmup"`
}

// Excess tells whether a rank has lately exceeded its peers by more than
// chance. Its values are a rank's distance from the median rank at the same
// step, so that what all ranks do alike is not in them.
//
// Two tests of the last n values, for every n from Rows to 64, against what was
// usual before: their clipped mean, in standard errors of this rank, and the
// number of them that stand out. Each is the generalised likelihood ratio of a
// change that began n rows ago (D. Siegmund, E. S. Venkatraman, Using the
// generalized likelihood ratio statistic for sequential detection of a
// change-point, Ann. Statist. 23, 1995), whose mean time between false alarms
// grows as the exponential of its limit: see [Limit]. The zero value is ready.
type Excess struct {
	values  [recent]float32
	slow    uint64 // newest in bit 0
	n       int    // values
	learnt  float32
	mean    float32 // of those that were learnt
	square  float32 // mean squared distance of those
	outside float32 // number of those that stand out
}

// Pool is what is usual for all ranks of a run: a rank about which little is
// known yet is taken to be like the others.
type Pool struct {
	n, square, outside float64
}

const (
	// pooled is for how many rows of its own the pool stands.
	pooled = 16
	// memory is over how many rows the usual is averaged at most.
	memory = 512
)

// Limit is the statistic from which on one of so many ranks stands out: the
// logarithm of how many chances there are between two false alarms (G. Lorden,
// Procedures for reacting to a change in distribution, Ann. Math. Statist. 42,
// 1971).
func (s ExcessSettings) Limit(ranks int) float64 {
	return math.Log(s.Between * float64(max(1, ranks)))
}

// Sigma is the scatter of all ranks.
func (p *Pool) Sigma(s ExcessSettings) float64 {
	if p.n == 0 {
		return s.Floor
	}
	return max(s.Floor, math.Sqrt(p.square))
}

// sigma is the scatter of this rank.
func (e *Excess) sigma(s ExcessSettings, p *Pool) float64 {
	of := p.Sigma(s)
	n := float64(min(e.learnt, memory))
	return max(s.Floor, math.Sqrt((pooled*of*of+n*float64(e.square))/(pooled+n)))
}

// level is what this rank usually exceeds the others by.
func (e *Excess) level(s ExcessSettings) float64 {
	return min(s.Forgiven, float64(e.mean)*float64(e.learnt)/float64(e.learnt+pooled))
}

// usual is the share of rows that usually stand out: that of all ranks or, where
// it is more, of this one, which is not taken for better than Usual before it is
// known.
func (e *Excess) usual(s ExcessSettings, p *Pool) float64 {
	all := 0.0
	if p.n > 0 {
		all = p.outside / p.n
	}
	own := (float64(e.outside) + pooled*max(all, s.Usual)) / (float64(e.learnt) + pooled)
	return min(0.5, max(all, own))
}

// Add takes in a finite value.
func (e *Excess) Add(s ExcessSettings, p *Pool, x float64, learns bool) {
	sigma := e.sigma(s, p)
	stands := x > max(s.Slow, 3*sigma)
	bound, level := s.Clip*sigma, e.level(s)
	if e.n >= recent && learns {
		e.learn(clamp(float64(e.values[e.n%recent]), level, bound), e.slow>>(recent-1) == 1)
	}
	p.add(clamp(x, level, bound)-level, stands)
	e.values[e.n%recent] = float32(x)
	e.slow <<= 1
	if stands {
		e.slow |= 1
	}
	e.n++
}

// clamp gives x, but at most bound from level.
func clamp(x, level, bound float64) float64 { return max(level-bound, min(level+bound, x)) }

func (p *Pool) add(distance float64, stands bool) {
	// The pool has the values of all ranks: its memory is that of a run's.
	const much = 1 << 16
	if p.n < much {
		p.n++
	} else {
		p.outside -= p.outside / p.n
	}
	p.square += (distance*distance - p.square) / p.n
	if stands {
		p.outside++
	}
}

// learn takes in a value that is no longer judged.
func (e *Excess) learn(x float64, stood bool) {
	if e.learnt < memory {
		e.learnt++
	} else {
		e.outside -= e.outside / e.learnt
	}
	distance := float32(x) - e.mean
	e.mean += distance / e.learnt
	e.square += (distance*distance - e.square) / e.learnt
	if stood {
		e.outside++
	}
}

// Judgement is what the tests say of the last values.
type Judgement struct {
	// Score is the statistic to compare with [ExcessSettings.Limit].
	Score float64
	// Rows is since how many rows the change is most likely.
	Rows int
	// Excess is their clipped mean above the usual.
	Excess float64
	// Slow is how many of them stand out.
	Slow int
}

// Judge gives the judgement on the values so far; a score of 0 says that nothing
// stands out.
func (e *Excess) Judge(s ExcessSettings, p *Pool) Judgement {
	best := Judgement{}
	n := min(e.n, recent)
	if e.n < s.Warmup || n < s.Rows {
		return best
	}
	sigma, level, usual := e.sigma(s, p), e.level(s), e.usual(s, p)
	variance, bound := 2*sigma*sigma, s.Clip*sigma
	sum, least := 0.0, s.Least
	known := 1 / (float64(e.learnt) + pooled)
	for i := 1; i <= n; i++ {
		sum += clamp(float64(e.values[(e.n-i)%recent]), level, bound)
		if i < s.Rows {
			continue
		}
		mean := sum/float64(i) - level
		if mean < least {
			continue
		}
		if score := mean * mean / (variance * (1/float64(i) + known)); score > best.Score {
			best = Judgement{Score: score, Rows: i, Excess: mean}
		}
	}
	best.Slow = bits.OnesCount64(e.slow & mask(best.Rows))
	if bits.OnesCount64(e.slow&mask(n)) >= minSlow {
		best = e.count(s, p, usual, n, best)
	}
	return best
}

// minSlow is how many rows must stand out to be counted.
const minSlow = 4

func mask(n int) uint64 {
	if n >= 64 {
		return math.MaxUint64
	}
	return 1<<n - 1
}

// count is the test of how many rows stand out: n times the relative entropy of
// the share that does against the usual one. A row after one that stood out
// counts for half: a host that stutters does so for some steps in a row, which
// are not as many chances.
func (e *Excess) count(s ExcessSettings, p *Pool, usual float64, n int, best Judgement) Judgement {
	k, rows := 0.0, 0
	for i := 1; i <= n; i++ {
		if e.slow>>(i-1)&1 == 0 {
			continue
		}
		rows++
		if k++; i < recent && e.slow>>i&1 == 1 {
			k -= 0.5
		}
		if i < s.Rows || k < minSlow {
			continue
		}
		share := k / float64(i)
		if share <= usual {
			continue
		}
		score := k * math.Log(share/usual)
		if share < 1 {
			score += (float64(i) - k) * math.Log((1-share)/(1-usual))
		}
		if score > best.Score {
			best = Judgement{Score: score, Rows: i, Excess: e.Mean(s, p, i), Slow: rows}
		}
	}
	return best
}

// Mean is the clipped mean of the last rows above the usual; rows is at least 1.
func (e *Excess) Mean(s ExcessSettings, p *Pool, rows int) float64 {
	level, bound := e.level(s), s.Clip*e.sigma(s, p)
	rows = min(rows, recent, e.n)
	sum := 0.0
	for i := 1; i <= rows; i++ {
		sum += clamp(float64(e.values[(e.n-i)%recent]), level, bound)
	}
	return sum/float64(max(1, rows)) - level
}

// Since gives for how many of a verdict's rows the excess has lasted, which
// leaves out those before the first that has half of it, and the mean of their
// values as they are.
func (e *Excess) Since(v Judgement) (rows int, mean float64) {
	sum := 0.0
	for i := 1; i <= min(v.Rows, recent, e.n); i++ {
		x := float64(e.values[(e.n-i)%recent])
		if sum += x; x > v.Excess/2 {
			rows, mean = i, sum/float64(i)
		}
	}
	return rows, mean
}

// N is the number of values.
func (e *Excess) N() int { return e.n }

// Forget drops the last values, but not what is usual.
func (e *Excess) Forget() { e.n, e.slow = 0, 0 }
