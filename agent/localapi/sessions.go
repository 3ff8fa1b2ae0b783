package localapi

import (
	"crypto/rand"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const (
	maxSessions   = 4096
	maxDirectives = 16 // that wait for one session
)

// Session is one registered process. Its fields do not change.
type Session struct {
	ID      string
	RunID   string
	Attempt uint32
	Rank    uint32
	Kind    trainerv1.SessionKind
	PID     int64 // as the process gave it; 0 for a supervisor

	uid        int // the user whose process it is
	directives chan *commonv1.Directive

	// Guarded by the table's lock.
	gone        chan struct{} // closed when the process is taken to be away
	away        bool
	replaced    chan struct{} // closed when the same rank registered again
	watch       chan struct{} // closed when a newer watch of this session begins; nil without a watch
	resumedFrom string        // the checkpoint that the process went on from
	lastCall    uint64        // grows with each call, for the bound on sessions
	watched     bool          // there was a watch
	clamped     bool          // it was said that its times are off
	supervised  Supervised    // of a supervisor: what it launched
	steps       stepping      // how its steps go
	reporting   int           // reports that are being written
	conn        *connection   // of its last call but for the watch's; nil in a test
	weighings   weighings     // the weights that it got and has not reported yet
}

// identity is what there is one session of.
type identity struct {
	runID string
	rank  uint32
	kind  trainerv1.SessionKind
}

func (s *Session) identity() identity { return identity{s.RunID, s.Rank, s.Kind} }

// Sessions is the table of registered processes. It is bounded: a full table
// forgets the session that has been silent longest among those without a
// watch, and refuses a new one when every session has a watch. All methods are
// safe for concurrent use.
type Sessions struct {
	gauge prometheus.Gauge

	mu    sync.Mutex
	byID  map[string]*Session
	of    map[identity]*Session
	calls uint64
	over  bool // the agent stops: nobody gets a directive any more
}

// NewSessions makes an empty table.
func NewSessions(metrics prometheus.Registerer) *Sessions {
	return &Sessions{
		gauge: metric.NewGauge(metrics, metric.AgentTrainerSessions).WithLabelValues(),
		byID:  map[string]*Session{},
		of:    map[identity]*Session{},
	}
}

// add puts a session into the table in place of an earlier one of the same
// rank. When that was the same process, what it had not been told yet goes to
// the new session.
func (t *Sessions) add(s *Session) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.of[s.identity()]
	if old == nil && len(t.byID) >= maxSessions && !t.forgetOne() {
		return fault.New(fault.Exhausted, "%d processes are registered; no more are taken", len(t.byID))
	}
	s.ID = rand.Text()
	s.directives = make(chan *commonv1.Directive, maxDirectives)
	s.gone, s.replaced = make(chan struct{}), make(chan struct{})
	if old != nil {
		close(old.replaced)
		if old.sameProcess(s) {
			moveDirectives(old.directives, s.directives)
		}
		t.forget(old)
	}
	t.calls++
	s.lastCall = t.calls
	t.byID[s.ID], t.of[s.identity()] = s, s
	t.count()
	return nil
}

func (s *Session) sameProcess(other *Session) bool {
	return s.PID == other.PID && s.Attempt == other.Attempt
}

func moveDirectives(from, to chan *commonv1.Directive) {
	for {
		select {
		case d := <-from:
			to <- d
		default:
			return
		}
	}
}

// forgetOne makes room in a full table.
func (t *Sessions) forgetOne() bool {
	var silent *Session
	for _, s := range t.byID {
		if s.watch == nil && (silent == nil || s.lastCall < silent.lastCall) {
			silent = s
		}
	}
	if silent == nil {
		return false
	}
	t.forget(silent)
	return true
}

func (t *Sessions) forget(s *Session) {
	t.leave(s)
	delete(t.byID, s.ID)
	if t.of[s.identity()] == s {
		delete(t.of, s.identity())
	}
	t.count()
}

// leave notes that a session's process is away. The session stays good for
// calls: a process that ends its watch may still have something to report.
func (t *Sessions) leave(s *Session) {
	if !s.away {
		s.away = true
		close(s.gone)
	}
}

func (t *Sessions) count() {
	n := 0
	for _, s := range t.byID {
		if !s.away {
			n++
		}
	}
	t.gauge.Set(float64(n))
}

// get finds the session of a call.
func (t *Sessions) get(id string) (*Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[id]
	if s == nil {
		return nil, fault.WithHint(fault.New(fault.NotFound, "session %.64q is not known", id),
			"register again: the agent restarted, or the same rank registered anew")
	}
	t.calls++
	s.lastCall = t.calls
	return s, nil
}

// beginWatch makes a watch the session's only one, and its process there.
func (t *Sessions) beginWatch(s *Session) (ended chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.watch != nil {
		close(s.watch)
	}
	s.watch, s.watched = make(chan struct{}), true
	if s.away && t.byID[s.ID] == s {
		s.away, s.gone = false, make(chan struct{})
	}
	t.count()
	return s.watch
}

// endWatch notes that a watch's reader went away. It tells whether the process
// is away with it: not when a newer watch took over.
func (t *Sessions) endWatch(s *Session, watch chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.watch != watch {
		return false
	}
	s.watch = nil
	was := s.away
	t.leave(s)
	t.count()
	return !was
}

// Gone is closed when the session's process is taken to be away: its watch
// ended, or the same rank registered again.
func (t *Sessions) Gone(s *Session) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.gone
}

// Trainers gives the training processes of a run that are there.
func (t *Sessions) Trainers(runID string) []*Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.trainers(runID)
}

func (t *Sessions) trainers(runID string) []*Session {
	var found []*Session
	for _, s := range t.byID {
		if s.RunID == runID && s.Kind == trainerv1.SessionKind_SESSION_KIND_TRAINER && !s.away {
			found = append(found, s)
		}
	}
	return found
}

// Everyone gives the training processes of every run that are there, in no
// order.
func (t *Sessions) Everyone() []*Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found []*Session
	for _, s := range t.byID {
		if s.Kind == trainerv1.SessionKind_SESSION_KIND_TRAINER && !s.away {
			found = append(found, s)
		}
	}
	return found
}

// Supervised is a command that a supervisor launched.
type Supervised struct {
	RunID   string
	Attempt uint32
	PID     int64 // of the supervisor, whose descendant the command is
}

// Supervised gives what the supervisors that are there have launched, in no
// order.
func (t *Sessions) Supervised() []Supervised {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found []Supervised
	for _, s := range t.byID {
		if s.supervised.PID != 0 && !s.away {
			found = append(found, s.supervised)
		}
	}
	return found
}

// launched takes note of what a supervisor launched; process 0: of nothing any
// more.
func (t *Sessions) launched(s *Session, attempt uint32, pid int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.supervised = Supervised{s.RunID, attempt, pid}
}

// Direct gives a directive to every training process of a run that is there, or
// to those of some ranks where ranks are named, and says which they are. It does not wait until they have it. When one of
// them does not take its directives, none gets this one, and the error is of
// kind [fault.Exhausted]; without any the error is of kind [fault.NotFound],
// and of kind [fault.Unavailable] while the agent stops.
func (t *Sessions) Direct(runID string, d *commonv1.Directive, ranks ...uint32) ([]*Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return nil, errStopping()
	}
	found := slices.DeleteFunc(t.trainers(runID), func(s *Session) bool { return len(ranks) > 0 && !slices.Contains(ranks, s.Rank) })
	if len(found) == 0 {
		return nil, fault.WithHint(fault.New(fault.NotFound, "no trainer of run %s is registered on this node", runID),
			"the run has ended, or its processes do not talk to this node's agent")
	}
	for _, s := range found {
		if len(s.directives) == cap(s.directives) {
			return nil, fault.New(fault.Exhausted, "rank %d of run %s (pid %d) does not take its directives; %d wait",
				s.Rank, runID, s.PID, len(s.directives))
		}
	}
	for _, s := range found {
		s.directives <- d // has room: only this method adds, under the lock
	}
	return found, nil
}

// Watched tells whether a process ever asked for its directives.
func (t *Sessions) Watched(s *Session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.watched
}

// stop has Direct refuse from now on: nobody would hear it.
func (t *Sessions) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
}

func errStopping() error { return fault.New(fault.Unavailable, "the agent is stopping") }

func (t *Sessions) setResumed(s *Session, checkpointID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.resumedFrom = checkpointID
}

func (t *Sessions) resumed(s *Session) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.resumedFrom
}
