package detect

import commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

// Change is what a report means for the series that a detector watches.
type Change uint8

const (
	// Skip is a report of another rank or of an attempt that is over.
	Skip Change = iota
	// Next is the series' next point.
	Next
	// Restart is the first point of a series that has nothing to do with the
	// one before.
	Restart
)

// strideFactor is by how much the distance between reported steps must change
// to make the points another series: averages over 100 steps do not scatter as
// single steps do.
const strideFactor = 4

// Series follows one rank's reports. The zero value waits for the first.
type Series struct {
	begun   bool
	attempt uint32
	step    int64 // of the last report
	stride  int64 // distance of reports; 0 when not known
	odd     int   // reports in a row at another distance
}

// Take judges the next report of the rank. A new attempt, a step that goes
// back, as after a rollback, and reports that come at another distance, twice
// in a row, start a new series.
func (s *Series) Take(attempt uint32, step int64) Change {
	switch {
	case !s.begun || attempt > s.attempt:
		*s = Series{begun: true, attempt: attempt, step: step}
		return Restart
	case attempt < s.attempt:
		return Skip
	case step <= s.step:
		*s = Series{begun: true, attempt: attempt, step: step}
		return Restart
	}
	stride := step - s.step
	s.step = step
	if s.stride == 0 {
		s.stride = stride
	}
	if stride < strideFactor*s.stride && s.stride < strideFactor*stride {
		s.odd = 0
		return Next
	}
	if s.odd++; s.odd < 2 {
		return Next // one gap is a lost report
	}
	s.stride, s.odd = stride, 0
	return Restart
}

// Lead follows the reports of the lowest rank that makes any: rank 0, but where
// a pipeline's last stage alone has a loss. The zero value waits for the first.
type Lead struct {
	Series
	rank uint32
}

// Take judges the next report of any rank.
func (l *Lead) Take(event *commonv1.Event, step int64) Change {
	rank, attempt := event.GetRank(), event.GetAttempt()
	switch {
	case !l.begun || attempt > l.attempt || (attempt == l.attempt && rank < l.rank):
		l.rank, l.Series = rank, Series{}
	case rank > l.rank:
		return Skip
	}
	return l.Series.Take(attempt, step)
}
