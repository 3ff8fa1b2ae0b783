package alerting

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// memory is a queue that keeps to its contract and forgets at the end of the
// process.
type memory struct {
	mu      sync.Mutex
	rows    map[string]*row
	changed chan struct{}
	away    bool // it does not answer
}

// row is one delivery in the queue.
type row struct {
	alert.Delivery
	due, leased time.Time
	state       string // "", "delivered", "failed"
	cause       string
	at          time.Time // when it got its state
	retries     []time.Duration
}

var errAway = errors.New("the queue is away")

func newMemory() *memory { return &memory{rows: map[string]*row{}, changed: make(chan struct{})} }

func (m *memory) touch() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memory) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// put adds a firing delivery of an incident of its own.
func (m *memory) put(id, receiver string) {
	m.putOf(id, receiver, id, controlv1.IncidentState_INCIDENT_STATE_FIRING)
}

func (m *memory) putOf(id, receiver, incident string, state controlv1.IncidentState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows[id] = &row{Delivery: alert.Delivery{
		ID: id, Receiver: receiver, Key: incident + "/" + receiver, State: state, Created: time.Now(),
		Incident: &controlv1.Incident{IncidentId: incident, RunId: "r"},
	}}
	m.touch()
}

func (m *memory) Lease(_ context.Context, limit int, lease time.Duration) ([]alert.Delivery, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return nil, errAway
	}
	now := time.Now()
	open := map[string]bool{}
	var leased []alert.Delivery
	for _, r := range m.sorted() {
		if r.state != "" {
			continue
		}
		first := !open[r.Key]
		open[r.Key] = true
		if !first || r.due.After(now) || r.leased.After(now) || len(leased) == limit {
			continue
		}
		leased = append(leased, r.Delivery)
		r.leased = now.Add(lease)
		r.Tries++
	}
	return leased, nil
}

func (m *memory) sorted() []*row {
	var rows []*row
	for _, r := range m.rows {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b *row) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return rows
}

func (m *memory) settle(ctx context.Context, id string, change func(*row)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.away {
		return errAway
	}
	r, ok := m.rows[id]
	if !ok || r.state != "" {
		return errors.New("no such delivery: " + id)
	}
	change(r)
	m.touch()
	return nil
}

func (m *memory) Delivered(ctx context.Context, id string, at time.Time) error {
	return m.settle(ctx, id, func(r *row) { r.state, r.at = "delivered", at })
}

func (m *memory) Retry(ctx context.Context, id string, notBefore time.Time, cause string) error {
	return m.settle(ctx, id, func(r *row) {
		r.leased, r.due, r.cause = time.Time{}, notBefore, cause
		r.retries = append(r.retries, time.Until(notBefore))
	})
}

func (m *memory) Fail(ctx context.Context, id string, cause string) error {
	return m.settle(ctx, id, func(r *row) { r.state, r.cause, r.at = "failed", cause, time.Now() })
}

func (m *memory) setAway(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

// get is a copy of a row.
func (m *memory) get(t *testing.T, id string) row {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.rows[id]
	if !ok {
		t.Fatalf("no delivery %s", id)
	}
	return *r
}

// open counts the deliveries that are not done.
func (m *memory) open() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, r := range m.rows {
		if r.state == "" {
			n++
		}
	}
	return n
}
