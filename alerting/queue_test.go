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
	batches []int
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

func (m *memory) Lease(_ context.Context, limit int, lease time.Duration, except ...string) ([]alert.Delivery, error) {
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
		if slices.Contains(except, r.Receiver) || !first || r.due.After(now) || r.leased.After(now) || len(leased) == limit {
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

func (m *memory) Settle(ctx context.Context, outcomes ...alert.Outcome) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.away {
		return errAway
	}
	m.batches = append(m.batches, len(outcomes))
	for _, o := range outcomes {
		r, ok := m.rows[o.ID]
		if !ok || r.state != "" {
			continue
		}
		m.settle(r, o)
	}
	m.touch()
	return nil
}

func (m *memory) settle(r *row, o alert.Outcome) {
	switch o.Result {
	case alert.Delivered:
		r.state, r.at = "delivered", o.At
	case alert.Failed:
		r.state, r.cause, r.at = "failed", o.Cause, o.At
	case alert.Retry:
		r.cause = o.Cause
		r.retries = append(r.retries, time.Until(o.NotBefore))
		r.leased, r.due = time.Time{}, o.NotBefore
	case alert.PutBack:
		r.Tries--
		r.leased, r.due = time.Time{}, o.NotBefore
	}
	if id := "for:" + o.ID; o.StandIn != "" && m.rows[id] == nil {
		d := r.Delivery
		d.ID, d.Receiver, d.Key, d.Tries, d.StandsIn, d.Created = id, o.StandIn, d.Key+"/"+o.StandIn, 0, true, o.At
		m.rows[id] = &row{Delivery: d}
	}
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
