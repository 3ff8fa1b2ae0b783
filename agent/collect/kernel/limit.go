package kernel

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// window is the time in which faults that are alike are counted together.
	window = time.Minute
	// burst is how many of them are reported for themselves.
	burst = 8
	// kindBurst is the same for all faults of one kind, whatever the device.
	kindBurst = 64
)

// found is a fault with its place in the log.
type found struct {
	fault *commonv1.NodeFault
	at    time.Time
	first uint64 // of the records that it stands for
	last  uint64
}

// alike is what faults have in common that are counted together.
type alike struct {
	kind   commonv1.FaultKind
	code   int32
	device string // empty for all devices of the kind, when there are too many
}

// tally is what came of faults that are alike since began.
type tally struct {
	began    time.Time
	reported int
	folded   found // the last of count that were not reported
	count    int64
}

// limiter lets the first faults of each sort through and folds what follows
// within a minute into one. It counts by the records' own times, so a log that
// is read late gives the same.
type limiter struct {
	tallies map[alike]*tally
	kinds   map[commonv1.FaultKind]*tally
}

func newLimiter() *limiter {
	return &limiter{tallies: map[alike]*tally{}, kinds: map[commonv1.FaultKind]*tally{}}
}

// pass tells whether a fault is to be reported for itself.
func (l *limiter) pass(f found) bool {
	kind := l.kinds[f.fault.Kind]
	if kind == nil || f.at.Sub(kind.began) >= window {
		kind = &tally{began: f.at}
		l.kinds[f.fault.Kind] = kind
	}
	key := alike{f.fault.Kind, f.fault.Code, f.fault.Device}
	if kind.reported >= kindBurst {
		key.code, key.device = 0, ""
	}
	t := l.tallies[key]
	if t == nil {
		t = &tally{began: f.at}
		l.tallies[key] = t
	}
	if t.count == 0 && f.at.Sub(t.began) >= window {
		t.began, t.reported = f.at, 0
	}
	if t.reported < burst && kind.reported < kindBurst && t.count == 0 {
		t.reported++
		kind.reported++
		return true
	}
	first := f.first
	if t.count > 0 {
		first = t.folded.first
	}
	t.folded = f
	t.folded.first = first
	t.count++
	return false
}

// due gives what was folded and whose minute is over by a time, in order of
// the records; they are forgotten with done.
func (l *limiter) due(now time.Time) []found {
	var all []found
	for key, t := range l.tallies {
		over := now.Sub(t.began) >= window
		switch {
		case over && t.count == 0:
			delete(l.tallies, key)
		case over:
			f := t.folded
			f.fault = proto.CloneOf(f.fault)
			f.fault.Folded = t.count
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b found) int { return int(int64(a.last) - int64(b.last)) })
	return all
}

// done forgets what was folded, after it was reported.
func (l *limiter) done(f found) {
	for key, t := range l.tallies {
		if t.count > 0 && t.folded.last == f.last {
			delete(l.tallies, key)
		}
	}
}

// undo forgets that a fault was let through: it could not be recorded.
func (l *limiter) undo(f found) {
	if t := l.tallies[alike{f.fault.Kind, f.fault.Code, f.fault.Device}]; t != nil && t.reported > 0 {
		t.reported--
		l.kinds[f.fault.Kind].reported--
	}
}

// oldest gives the first record that is folded and not yet reported, or next
// when there is none: from there the log must be read again after a restart.
func (l *limiter) oldest(next uint64) uint64 {
	for _, t := range l.tallies {
		if t.count > 0 {
			next = min(next, t.folded.first)
		}
	}
	return next
}

// restart drops what is folded, when the log is read again from oldest.
func (l *limiter) restart() {
	for key, t := range l.tallies {
		if t.count > 0 {
			delete(l.tallies, key)
		}
	}
}
