package localapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// maxRuns bounds the runs that are remembered. For a new one the one that was
	// launched longest ago is forgotten, ended ones before others; an open one only
	// for one of the same user, so that nobody takes a run by filling the book.
	maxRuns = 1024
	// maxRunsOfOther bounds those of a user other than the agent's own.
	maxRunsOfOther = maxRuns / 2
)

// note is what is remembered of a run.
type note struct {
	RunID    string    `json:"run_id"`
	Attempt  uint32    `json:"attempt"` // the highest that was seen
	PID      int64     `json:"pid"`     // of the process that registered last; 0 when not known
	Open     bool      `json:"open"`    // it was not said to have ended
	Launched time.Time `json:"launched"`
	Claimed  time.Time `json:"claimed,omitzero"`
	Owner    *int      `json:"owner,omitempty"` // the user whose run it is

	step      int64     // the last that was reported to this agent
	awaySince time.Time // zero while a process of the run is there
}

// book remembers the runs of this node, so that a run that is launched again
// does not count its attempts from 0, and one whose processes are all killed
// does not stay open for ever. With a file it survives the agent. All methods
// are safe for concurrent use.
type book struct {
	log *slog.Logger

	mu   sync.Mutex
	fsys durable.FS // nil: without a file
	path string
	runs map[string]*note
}

func newBook(log *slog.Logger) *book { return &book{log: log, runs: map[string]*note{}} }

// load reads the file and keeps it from now on. A file that cannot be read
// costs what it remembered, and is told.
func (b *book) load(fsys durable.FS, path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fsys, b.path = fsys, path
	if err := fsys.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		b.log.Warn("make directory of the runs file", "error", err)
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var notes []*note
	if err == nil {
		err = json.Unmarshal(data, &notes)
	}
	if err != nil {
		b.log.Warn("read the runs of earlier agents; a run that is launched again counts its attempts anew", "path", path, "error", err)
		return
	}
	for _, n := range notes {
		if n != nil && len(b.runs) < maxRuns {
			b.runs[n.RunID] = n
		}
	}
}

// launched notes that processes of a user's run were started.
func (b *book) launched(runID string, uid int, attempt uint32, pid int64, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.find(runID, uid, now)
	if n == nil {
		return
	}
	n.Attempt, n.Open, n.Launched, n.awaySince = max(n.Attempt, attempt), true, now.UTC(), time.Time{}
	n.PID = cmp.Or(pid, n.PID)
	b.save()
}

// find gives what is remembered of a run, which this user's process may say the
// first word of; nil: there is no room. The lock is held.
func (b *book) find(runID string, uid int, now time.Time) *note {
	n := b.runs[runID]
	if n == nil {
		if !b.makeRoom(uid) {
			return nil
		}
		n = &note{RunID: runID, Owner: &uid, Claimed: now.UTC()}
		b.runs[runID] = n
	}
	if n.Owner == nil {
		n.Owner = &uid
	}
	return n
}

// claim has a run be of a user, from its first process on; it gives the user
// whose it is, and false when there is no room for it.
func (b *book) claim(runID string, uid int, now time.Time) (owner int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := b.runs[runID]; n != nil && n.Owner != nil {
		return *n.Owner, true
	}
	n := b.find(runID, uid, now)
	if n == nil {
		return 0, false
	}
	b.save()
	return *n.Owner, true
}

// stepped notes a run's progress, for its last word.
func (b *book) stepped(runID string, step int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := b.runs[runID]; n != nil {
		n.step = step
	}
}

// ended notes that runs are over.
func (b *book) ended(runIDs ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	for _, id := range runIDs {
		if n := b.runs[id]; n != nil && n.Open {
			n.Open, changed = false, true
		}
	}
	if changed {
		b.save()
	}
}

// isOpen tells whether a run is known and was not said to have ended.
func (b *book) isOpen(runID string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.runs[runID]
	return n != nil && n.Open
}

// next gives the attempt that a supervisor launches first.
func (b *book) next(runID string) uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.runs[runID]
	switch {
	case n == nil || n.Launched.IsZero():
		return 0
	case n.Attempt == math.MaxUint32:
		return n.Attempt
	default:
		return n.Attempt + 1
	}
}

// lost gives the open runs of which no process was there for a time.
func (b *book) lost(now time.Time, after time.Duration, present func(runID string) bool) []note {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lost []note
	for id, n := range b.runs {
		switch {
		case !n.Open:
		case present(id):
			n.awaySince = time.Time{}
		case n.awaySince.IsZero():
			n.awaySince = now
		case now.Sub(n.awaySince) >= after:
			lost = append(lost, *n)
		}
	}
	return lost
}

// makeRoom forgets a run, where it must, for another of a user: an ended one of
// that user, else one of others, else an open one of that user. It gives false when
// only open ones of others are left.
func (b *book) makeRoom(uid int) bool {
	var mine, others, open []*note
	for _, n := range b.runs {
		switch own := n.Owner != nil && *n.Owner == uid; {
		case own && !n.Open:
			mine = append(mine, n)
		case own:
			open = append(open, n)
		case !n.Open:
			others = append(others, n)
		}
	}
	order := [][]*note{mine, others, open}
	switch {
	case uid != os.Getuid() && len(mine)+len(open) >= maxRunsOfOther:
		order = [][]*note{mine, open}
	case len(b.runs) < maxRuns:
		return true
	}
	for _, some := range order {
		if len(some) > 0 {
			delete(b.runs, slices.MinFunc(some, func(x, y *note) int { return x.last().Compare(y.last()) }).RunID)
			return true
		}
	}
	return false
}

// last is when something was last heard of a run.
func (n *note) last() time.Time {
	if n.Claimed.After(n.Launched) {
		return n.Claimed
	}
	return n.Launched
}

// save writes the file anew: runs are launched and end rarely. What cannot be
// written is written with the next change.
func (b *book) save() {
	if b.fsys == nil {
		return
	}
	notes := make([]*note, 0, len(b.runs))
	for _, n := range b.runs {
		notes = append(notes, n)
	}
	slices.SortFunc(notes, func(x, y *note) int { return cmp.Compare(x.RunID, y.RunID) })
	data, err := json.MarshalIndent(notes, "", " ")
	if err == nil {
		err = durable.WriteFile(b.fsys, b.path, append(data, '\n'), 0o600)
	}
	if err != nil {
		b.log.Warn("write the runs file", "error", err)
	}
}

// watchRuns says of runs whose processes all went away for good that they
// failed, until ctx ends.
func (a *API) watchRuns(ctx context.Context) error {
	for life.InStep(ctx, max(a.config.LostAfter/12, time.Millisecond)) {
		var ended []string
		for _, n := range a.book.lost(a.deps.Clock(), a.config.LostAfter, a.sessions.present) {
			if a.endLost(ctx, n) {
				ended = append(ended, n.RunID)
			}
		}
		a.book.ended(ended...)
	}
	return nil
}

// endLost ends a run in the place of its processes. It gives false when that
// could not be written, to be tried again at the next tick.
func (a *API) endLost(ctx context.Context, n note) bool {
	explanation := "the run's processes went away and nobody started them again"
	if n.PID != 0 {
		explanation = fmt.Sprintf("process %d went away and nobody started it again", n.PID)
	}
	event := &commonv1.Event{
		EventId: uuid.Must(uuid.NewV7()).String(), Time: timestamppb.New(a.deps.Clock()),
		RunId: n.RunID, Attempt: n.Attempt,
		Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{
			Outcome: commonv1.Outcome_OUTCOME_FAILED, Step: n.step, Explanation: explanation,
		}},
	}
	if err := a.deps.Events(ctx, n.RunID, event); err != nil {
		a.deps.Log.Warn("end a run that was lost", "run", n.RunID, "error", err)
		return false
	}
	a.deps.Log.Warn("run failed: "+explanation, "run", n.RunID, "attempt", n.Attempt)
	a.lost.Inc()
	if a.deps.Observe != nil {
		a.deps.Observe(event)
	}
	return true
}
