package storetest

import (
	"testing"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// timeline gives what an incident's timeline says, as "action: text".
func (b *bench) timeline(incident string) []string {
	b.Helper()
	var texts []string
	b.view(func(tx *store.Tx) error {
		got, err := tx.Incident(incident)
		for _, entry := range got.GetTimeline() {
			texts = append(texts, entry.GetAction()+": "+entry.GetText())
		}
		return err
	})
	return texts
}

func testOutboxFolds(t *testing.T, b *bench) {
	b.notify("i", "slack", firing, 0)
	for range 50 {
		b.wantLease(5, "i/slack/1")
		b.settle(alert.Outcome{ID: "i/slack/1", Result: alert.Retry, At: b.clock.Now(), Cause: "status 500."})
	}
	b.wantLease(5, "i/slack/1")
	b.settle(
		alert.Outcome{ID: "i/slack/1", Result: alert.Delivered, At: at(7)},
		alert.Outcome{ID: "i/slack/1", Result: alert.Failed, Cause: "too late"},
		alert.Outcome{ID: "i/nobody/1", Result: alert.Delivered},
	)
	b.same("timeline", b.timeline("i"), []string{
		"notify-tried: slack did not take that it is firing, tried 50 times: status 500.",
		"notified: slack was told that it is firing, after 7 ms.",
	})
}

func testOutboxPutBack(t *testing.T, b *bench) {
	b.notify("i", "slack", firing, 0)
	b.notify("j", "page", firing, 1)
	if due, err := b.store.Outbox().Lease(t.Context(), 5, time.Hour, "slack", "other"); err != nil || len(due) != 1 || due[0].Receiver != "page" {
		t.Errorf("leased %v, %v; want what is not for slack", due, err)
	}
	b.wantLease(5, "i/slack/1")
	b.settle(alert.Outcome{ID: "i/slack/1", Result: alert.PutBack, NotBefore: b.clock.Now().Add(time.Second), Cause: "paused"})
	b.wantLease(5)
	b.clock.advance(time.Second)
	again := b.lease(5)
	if len(again) != 1 || again[0].Tries != 0 {
		t.Errorf("leased %v, want it as never tried", again)
	}
	b.same("timeline", len(b.timeline("i")), 0)
}

func testOutboxStandIn(t *testing.T, b *bench) {
	b.notify("i", "page", firing, 0)
	for range 3 { // the breaker is open, three times it comes by
		b.wantLease(5, "i/page/1")
		b.settle(alert.Outcome{ID: "i/page/1", Result: alert.PutBack, At: at(5), NotBefore: b.clock.Now().Add(10 * time.Second), Cause: "page fails", StandIn: "mail"})
		if due := b.lease(5); len(due) > 0 && due[0].Receiver == "mail" {
			if !due[0].StandsIn || due[0].State != firing || due[0].Traceparent != "trace-page" {
				t.Errorf("the stand-in is %+v", due[0])
			}
			b.settle(alert.Outcome{ID: "i/mail/1", Result: alert.Delivered, At: at(6)})
		}
		b.clock.advance(20 * time.Second)
	}
	b.wantLease(5, "i/page/1")
	b.settle(alert.Outcome{ID: "i/page/1", Result: alert.Delivered, At: at(9)})
	b.wantLease(5)
	// Who was told that it began is told that it is over.
	b.notify("i", "page", resolved, 10)
	b.wantLease(5, "i/page/2")
	b.settle(alert.Outcome{ID: "i/page/2", Result: alert.Delivered, At: at(11)})
	b.wantLease(5, "i/mail/2")
	b.same("timeline", b.timeline("i"), []string{
		"notify-fallback: mail is told in the place of page: page fails.",
		"notified: mail was told that it is firing, after 1 ms.",
		"notified: page was told that it is firing, after 9 ms.",
		"notified: page was told that it is resolved, after 1 ms.",
	})
}

func testDeadLetters(t *testing.T, b *bench) {
	b.notify("i", "slack", firing, 0)
	b.notify("j", "page", firing, 1)
	b.lease(5)
	b.settle(
		alert.Outcome{ID: "i/slack/1", Result: alert.Failed, At: at(20), Cause: "status 404"},
		alert.Outcome{ID: "j/page/1", Result: alert.Failed, At: at(30), Cause: "status 400"},
	)
	letters := func(receiver string, limit int) (ids []string) {
		b.view(func(tx *store.Tx) error {
			found, err := tx.DeadLetters(receiver, limit)
			for _, l := range found {
				ids = append(ids, l.GetNotificationId())
			}
			return err
		})
		return ids
	}
	b.same("all, the last first", letters("", 0), []string{"j/page/1", "i/slack/1"})
	b.same("one", letters("", 1), []string{"j/page/1"})
	b.same("of slack", letters("slack", 0), []string{"i/slack/1"})
	b.view(func(tx *store.Tx) error {
		found, err := tx.DeadLetters("slack", 0)
		b.same("letter", found[0], &controlv1.DeadLetter{
			NotificationId: "i/slack/1", IncidentId: "i", Receiver: "slack", IncidentState: firing, Tries: 1,
			Created: stamp(0), Failed: stamp(20), Error: "status 404",
		})
		waiting, dead, queueErr := tx.Queued()
		b.must(queueErr)
		b.same("waiting", waiting, map[string]int64{})
		b.same("dead", dead, map[string]int64{"slack": 1, "page": 1})
		return err
	})

	b.clock.advance(time.Hour)
	b.must(b.store.Outbox().Replay(t.Context(), "i/slack/1"))
	again := b.lease(5)
	if len(again) != 1 || again[0].Tries != 0 || !again[0].TrySince().Equal(b.clock.Now()) {
		t.Errorf("replayed as %+v, want it as new from now on", again)
	}
	if err := b.store.Outbox().Replay(t.Context(), "i/slack/1"); !fault.Is(err, fault.Precondition) {
		t.Errorf("replay of what waits: %v", err)
	}
	if err := b.store.Outbox().Replay(t.Context(), "x"); !fault.Is(err, fault.NotFound) {
		t.Errorf("replay of nothing: %v", err)
	}
	// What the receiver has been told to be over does not begin again.
	b.notify("j", "page", resolved, 50)
	b.wantLease(5, "j/page/2")
	b.settle(alert.Outcome{ID: "j/page/2", Result: alert.Delivered, At: at(60)})
	if err := b.store.Outbox().Replay(t.Context(), "j/page/1"); !fault.Is(err, fault.Precondition) {
		t.Errorf("replay of an old state: %v", err)
	}
}

func testMemory(t *testing.T, b *bench) {
	slack, other := b.store.Memory("slack"), b.store.Memory("other")
	recall := func(m *store.Memory, key string) string {
		value, err := m.Recall(t.Context(), key)
		b.must(err)
		return value
	}
	b.same("nothing", recall(slack, "i"), "")
	b.must(slack.Remember(t.Context(), "i", "1"))
	b.must(slack.Remember(t.Context(), "i", "2"))
	b.must(slack.Remember(t.Context(), "j", "3"))
	b.same("the last", recall(slack, "i"), "2")
	b.same("another receiver's", recall(other, "i"), "")
	b.must(slack.Remember(t.Context(), "i", ""))
	b.must(slack.Remember(t.Context(), "i", ""))
	all, err := slack.All(t.Context())
	b.must(err)
	b.same("all", all, map[string]string{"j": "3"})
}
