package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// notify puts a notification of an incident into the outbox.
func (b *bench) notify(incident, receiver string, state controlv1.IncidentState, ms int) {
	b.Helper()
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.PutIncident(record(incident, "r", 1)), tx.InsertNotification(store.Notification{
			IncidentID: incident, Receiver: receiver, State: state, Created: at(ms), Traceparent: "trace-" + receiver,
		}))
	})
}

// lease takes what is due for ten seconds.
func (b *bench) lease(limit int) []alert.Delivery {
	b.Helper()
	got, err := b.store.Outbox().Lease(b.Context(), limit, 10*time.Second)
	if err != nil {
		b.Fatal(err)
	}
	return got
}

func (b *bench) wantLease(limit int, want ...string) {
	b.Helper()
	got := ids(b.lease(limit), func(d alert.Delivery) string { return d.ID })
	b.same("leased", got, want)
}

// settle writes outcomes down.
func (b *bench) settle(outcomes ...alert.Outcome) {
	b.Helper()
	b.must(b.store.Outbox().Settle(b.Context(), outcomes...))
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func testOutboxOrder(t *testing.T, b *bench) {
	b.notify("i2", "slack", firing, 20)
	b.notify("i1", "slack", firing, 10)
	b.notify("i1", "hook", firing, 10)
	b.notify("i1", "slack", resolved, 15)
	b.update(func(tx *store.Tx) error {
		return tx.AddTimeline("i1", &controlv1.TimelineEntry{Action: "opened"})
	})
	first := b.lease(2)
	whole := record("i1", "r", 1).Incident
	whole.Timeline = []*controlv1.TimelineEntry{{Action: "opened"}}
	for i := range first {
		b.same("incident", len(first[i].Incident.GetNotifications()), 3)
	}
	for i := range first { // which may be one incident
		first[i].Incident.Notifications = nil
	}
	b.same("oldest first", first, []alert.Delivery{
		{ID: "i1/hook/1", Receiver: "hook", Key: "i1/hook", Incident: whole, State: firing, Traceparent: "trace-hook", Created: at(10)},
		{ID: "i1/slack/1", Receiver: "slack", Key: "i1/slack", Incident: whole, State: firing, Traceparent: "trace-slack", Created: at(10)},
	})
	b.wantLease(10, "i2/slack/1") // not the second one of i1 and slack
	b.settle(alert.Outcome{ID: "i1/slack/1", Result: alert.Delivered, At: at(30)})
	b.wantLease(10, "i1/slack/2")
	b.wantLease(10)
	b.view(func(tx *store.Tx) error {
		got, err := tx.Incident("i1")
		const pending, delivered = controlv1.NotificationState_NOTIFICATION_STATE_PENDING, controlv1.NotificationState_NOTIFICATION_STATE_DELIVERED
		b.same("notifications", got.GetNotifications(), []*controlv1.Notification{
			{NotificationId: "i1/hook/1", Receiver: "hook", IncidentState: firing, State: pending, Tries: 1},
			{NotificationId: "i1/slack/1", Receiver: "slack", IncidentState: firing, State: delivered, Tries: 1, Delivered: stamp(30)},
			{NotificationId: "i1/slack/2", Receiver: "slack", IncidentState: resolved, State: pending, Tries: 1},
		})
		b.same("timeline", got.GetTimeline()[1:], []*controlv1.TimelineEntry{
			{Time: stamp(30), Action: "notified", Text: "slack was told that it is firing, after 20 ms."},
		})
		return err
	})
}

// testOutboxStories: what goes on with a story, which tells no state, waits for
// those before it and lets those behind it pass.
func testOutboxStories(_ *testing.T, b *bench) {
	b.notify("i1", "slack", firing, 10)
	b.notify("i1", "slack", 0, 20)
	b.notify("i1", "slack", resolved, 30)
	b.wantLease(10, "i1/slack/1")
	b.settle(alert.Outcome{ID: "i1/slack/1", Result: alert.Delivered, At: at(30)})
	b.wantLease(1, "i1/slack/2")
	b.wantLease(10, "i1/slack/3")
}

func testOutboxRelease(_ *testing.T, b *bench) {
	b.notify("i", "slack", firing, 0)
	b.notify("i", "hook", firing, 1)
	b.wantLease(1, "i/slack/1")
	b.settle(alert.Outcome{ID: "i/hook/1", Result: alert.Delivered, At: at(2)})
	released, err := b.store.Outbox().Release(b.Context())
	b.must(err)
	b.same("released", released, int64(1))
	again := b.lease(10)
	b.same("due at once", ids(again, func(d alert.Delivery) string { return d.ID }), []string{"i/slack/1"})
	b.same("the try counts", again[0].Tries, 1)
}

// testOutboxExcept leaves receivers out, and has what is left in its order.
func testOutboxExcept(t *testing.T, b *bench) {
	for n, receiver := range []string{"c", "a", "b", "d", "a", "b"} {
		b.notify(fmt.Sprint("i", n), receiver, firing, n)
	}
	lease := func(limit int, want []string, except ...string) {
		t.Helper()
		got, err := b.store.Outbox().Lease(b.Context(), limit, 10*time.Second, except...)
		b.same("leased", ids(got, func(d alert.Delivery) string { return d.ID }), want)
		b.must(err)
	}
	lease(3, []string{"i1/a/1", "i2/b/1", "i4/a/1"}, "c", "d", "nobody")
	lease(9, []string{"i3/d/1", "i5/b/1"}, "c")
	lease(9, nil, "a", "c")
	lease(9, []string{"i0/c/1"})
}

func testOutboxLease(t *testing.T, b *bench) {
	b.notify("i", "slack", firing, 0)
	b.wantLease(0)
	b.wantLease(1, "i/slack/1")
	b.clock.advance(10*time.Second - 1)
	b.wantLease(1)
	b.clock.advance(1)
	again := b.lease(1)
	if len(again) != 1 || again[0].Tries != 1 {
		t.Fatalf("after the lease: got %v, want the one with one try before", again)
	}
	// The sender of the first lease was slow, not dead: what it says holds.
	b.settle(alert.Outcome{ID: "i/slack/1", Result: alert.Delivered, At: at(1)})
	b.settle(alert.Outcome{ID: "i/slack/1", Result: alert.Retry, At: b.clock.Now(), NotBefore: at(1), Cause: "too late"})
	b.settle(alert.Outcome{ID: "i/slack/1", Result: alert.Failed, At: b.clock.Now(), Cause: "too late"})
	b.clock.advance(time.Hour)
	b.wantLease(1)
	b.view(func(tx *store.Tx) error {
		got, err := tx.Incident("i")
		b.same("error after delivery", got.GetNotifications()[0].GetError(), "")
		return err
	})
}

func testOutboxRetry(t *testing.T, b *bench) {
	b.notify("i", "slack", firing, 0)
	b.notify("i", "slack", resolved, 1)
	b.wantLease(5, "i/slack/1")
	changed := b.store.Outbox().Changed()
	b.settle(alert.Outcome{ID: "i/slack/1", Result: alert.Retry, At: b.clock.Now(), NotBefore: b.clock.Now().Add(time.Minute), Cause: "status 503"})
	select {
	case <-changed:
	default:
		t.Error("a retry did not wake those who wait")
	}
	b.wantLease(5) // what comes behind waits too
	b.clock.advance(time.Minute)
	b.wantLease(5, "i/slack/1")
	b.settle(alert.Outcome{ID: "i/slack/1", Result: alert.Failed, At: b.clock.Now(), Cause: "status 410"})
	b.wantLease(5, "i/slack/2")
	b.view(func(tx *store.Tx) error {
		got, err := tx.Incident("i")
		b.same("given up", got.GetNotifications()[0], &controlv1.Notification{
			NotificationId: "i/slack/1", Receiver: "slack", IncidentState: firing, Tries: 2, Error: "status 410",
			State: controlv1.NotificationState_NOTIFICATION_STATE_FAILED,
		})
		b.same("timeline", got.GetTimeline(), []*controlv1.TimelineEntry{
			{Time: stamp(0), Action: "notify-tried", Text: "slack did not take that it is firing, tried once: status 503."},
			{Time: stamp(60_000), Action: "notify-failed", Text: "slack could not be told that it is firing: status 410."},
		})
		return err
	})
}

// testOutboxSenders has several senders race for the same rows: each is sent
// once, and those of one incident and receiver in order.
func testOutboxSenders(t *testing.T, b *bench) {
	const incidents, states, senders = 5, 4, 4
	for i := range incidents {
		for s := range states {
			b.notify(fmt.Sprintf("i%d", i), "slack", firing, s)
		}
	}
	var mu sync.Mutex
	sent := map[string][]string{}
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for {
				due, err := b.store.Outbox().Lease(t.Context(), 3, time.Hour)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				total := 0
				for _, d := range due {
					incident, _, _ := strings.Cut(d.ID, "/")
					sent[incident] = append(sent[incident], d.ID)
				}
				for _, list := range sent {
					total += len(list)
				}
				mu.Unlock()
				for _, d := range due {
					if err := b.store.Outbox().Settle(t.Context(), alert.Outcome{ID: d.ID, Result: alert.Delivered, At: start}); err != nil {
						t.Error(err)
						return
					}
				}
				if total == incidents*states {
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range incidents {
		var want []string
		for s := range states {
			want = append(want, fmt.Sprintf("i%d/slack/%d", i, s+1))
		}
		b.same("sent in order, each once", sent[fmt.Sprintf("i%d", i)], want)
	}
}
