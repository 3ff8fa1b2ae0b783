package trainer

import (
	"context"
	"sync"
	"time"

	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// link is the state of the registration with the agent. It is safe for
// concurrent use.
type link struct {
	mu      sync.Mutex
	id      string        // the session; empty while there is none
	hold    time.Duration // as the agent said last
	next    uint32        // the run's next attempt, as the agent said last
	met     bool          // whether an agent ever answered
	wants   bool          // spans and logs, as the agent said last
	changed chan struct{} // closed at the next change of id
}

func newLink() *link { return &link{hold: defaultHold, changed: make(chan struct{})} }

// up notes a registration whose directives are being watched.
func (l *link) up(welcome *trainerv1.RegisterResponse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id, l.met, l.next = welcome.GetSessionId(), true, welcome.GetNextAttempt()
	l.wants = welcome.GetTelemetry()
	if welcome.GetHold() != nil {
		l.hold = welcome.GetHold().AsDuration()
	}
	l.signal()
}

// down notes that the registration is gone.
func (l *link) down() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id != "" {
		l.id = ""
		l.signal()
	}
}

func (l *link) signal() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// state gives the session ("" while there is none) and what is closed when
// that changes.
func (l *link) state() (id string, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id, l.changed
}

// patience gives how long an order is waited for; 0 when no agent ever
// answered.
func (l *link) patience() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.met {
		return 0
	}
	return l.hold
}

// wantsTelemetry tells whether the agent takes spans and logs.
func (l *link) wantsTelemetry() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wants
}

// nextAttempt gives what the agent said last of the run's next attempt.
func (l *link) nextAttempt() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// await gives the session, other than one that is known to be gone, as soon as
// there is one; false when patience, unless it is 0, or ctx ends first.
func (l *link) await(ctx context.Context, patience time.Duration, gone string) (string, bool) {
	if patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	for {
		id, changed := l.state()
		if id != "" && id != gone {
			return id, true
		}
		select {
		case <-ctx.Done():
			return "", false
		case <-changed:
		}
	}
}
