package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func testAlertGroups(t *testing.T, b *bench) {
	g := store.AlertGroup{ID: "g1", Route: "{}", Receiver: "a", Labels: map[string]string{"run": "r"}, Due: at(50)}
	late := store.AlertGroup{ID: "g2", Route: "{}", Receiver: "b", Due: at(99), Looked: at(1), Told: at(2)}
	b.update(func(tx *store.Tx) error {
		joined, err := tx.JoinGroup("g1", "i1")
		again, errAgain := tx.JoinGroup("g1", "i1")
		b.same("joined", []bool{joined, again}, []bool{true, false})
		_, errOther := tx.JoinGroup("g2", "i1")
		return errors.Join(err, errAgain, errOther, tx.PutAlertGroup(g), tx.PutAlertGroup(late))
	})
	told := store.AlertMember{IncidentID: "i1", Told: firing, ToldSeverity: commonv1.Severity_SEVERITY_CRITICAL}
	b.update(func(tx *store.Tx) error { return tx.PutAlertMember("g1", told) })
	b.view(func(tx *store.Tx) error {
		due, err := tx.DueGroups(at(50), 9)
		b.same("due", due, []store.AlertGroup{g})
		one, found, errOne := tx.AlertGroup("g2")
		b.same("one", []any{one, found}, []any{late, true})
		both, errBoth := tx.GroupsOf("i1")
		b.same("of an incident", len(both), 2)
		members, errMembers := tx.AlertMembers("g1")
		b.same("members", members, []store.AlertMember{told})
		next, errNext := tx.NextDue()
		b.same("next", next, at(50))
		return errors.Join(err, errOne, errBoth, errMembers, errNext)
	})
	b.update(func(tx *store.Tx) error { return errors.Join(tx.LeaveGroup("g2", "i1"), tx.DeleteAlertGroup("g1")) })
	b.view(func(tx *store.Tx) error {
		left, err := tx.AlertGroups()
		b.same("left", left, []store.AlertGroup{late})
		of, errOf := tx.GroupsOf("i1")
		b.same("memberships left", len(of), 0)
		return errors.Join(err, errOf)
	})
}

// testManyNew opens more incidents in one transaction than one statement
// writes, and sees each of them in it and after it.
func testManyNew(t *testing.T, b *bench) {
	const count = 37
	id := func(n int) string { return fmt.Sprintf("many-%02d", n) }
	group := store.AlertGroup{ID: "many", Route: "{}", Receiver: "a", Labels: map[string]string{"a": "b"}, Due: at(50)}
	seen := func(what string) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			for n := range count {
				got, err := tx.Incident(id(n))
				if err != nil {
					return err
				}
				var told []string
				for _, entry := range got.GetTimeline() {
					told = append(told, entry.GetText())
				}
				b.same(what, []any{got.GetSummary(), told}, []any{"second", []string{"one", "two"}})
			}
			got, found, err := tx.AlertGroup("many")
			b.same("the group "+what, []any{got, found}, []any{group, true})
			members, errMembers := tx.AlertMembers("many")
			b.same("how many members "+what, len(members), count)
			return errors.Join(err, errMembers)
		}
	}
	b.update(func(tx *store.Tx) error {
		for n := range count {
			i := &controlv1.Incident{IncidentId: id(n), State: firing, Summary: "first"}
			err := tx.OpenIncident(store.IncidentRecord{Incident: i, Fingerprint: id(n)})
			i.Summary = "second"
			err = errors.Join(err, tx.OpenIncident(store.IncidentRecord{Incident: i, Fingerprint: id(n)}))
			for _, text := range []string{"one", "two"} {
				err = errors.Join(err, tx.AddTimeline(id(n), &controlv1.TimelineEntry{Text: text}))
			}
			joined, errJoin := tx.JoinGroup("many", id(n))
			b.same("joined", joined, true)
			group.Due = at(50 + n)
			if err := errors.Join(err, errJoin, tx.PutAlertGroup(group)); err != nil {
				return err
			}
			put, found, err := tx.AlertGroup("many")
			b.same("the group as it was put", []any{put, found}, []any{group, true})
			if err != nil {
				return err
			}
		}
		joined, err := tx.JoinGroup("many", id(0))
		b.same("joined again", joined, false)
		return errors.Join(err, seen("in the transaction")(tx))
	})
	b.view(seen("after it"))
}

func testInhibitors(t *testing.T, b *bench) {
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.PutInhibitor("r", "{}", "i1"), tx.PutInhibitor("r", "{}", "i1"), tx.PutInhibitor("r", "{}", "i2"), tx.PutInhibitor("q", "{}", "i1"))
	})
	want := func(want ...string) {
		b.Helper()
		b.view(func(tx *store.Tx) error {
			got, err := tx.Inhibitors("r", "{}", 9)
			b.same("inhibitors", got, want)
			return err
		})
	}
	want("i1", "i2")
	b.update(func(tx *store.Tx) error { return tx.DeleteInhibitor("i1") })
	want("i2")
	b.update(func(tx *store.Tx) error { return tx.DeleteInhibitor("") })
	want()
}

func testSilences(t *testing.T, b *bench) {
	silence := func(id string, starts, ends int) *controlv1.Silence {
		return &controlv1.Silence{SilenceId: id, Starts: stamp(starts), Ends: stamp(ends), Comment: id}
	}
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.PutSilence(silence("over", 1, 10)), tx.PutSilence(silence("now", 5, 30)), tx.PutSilence(silence("later", 25, 40)))
	})
	id := func(s *controlv1.Silence) string { return s.GetSilenceId() }
	b.view(func(tx *store.Tx) error {
		active, err := tx.ActiveSilences(at(20))
		b.same("active", ids(active, id), []string{"now"})
		all, errAll := tx.Silences(at(20))
		b.same("not over, the last to end first", ids(all, id), []string{"later", "now"})
		return errors.Join(err, errAll)
	})
	b.update(func(tx *store.Tx) error { return tx.ForgetSilences(at(20)) })
	b.view(func(tx *store.Tx) error {
		all, err := tx.Silences(time.Time{})
		b.same("kept", len(all), 2)
		return err
	})
}

func testTimers(t *testing.T, b *bench) {
	first := store.Timer{Kind: "escalation", Name: "night", Target: "i1", Due: at(10)}
	second := store.Timer{Kind: "heartbeat", Name: "out", Due: at(20)}
	b.update(func(tx *store.Tx) error { return errors.Join(tx.PutTimer(first), tx.PutTimer(second)) })
	first.Step, first.Due = 1, at(15)
	b.update(func(tx *store.Tx) error { return tx.PutTimer(first) })
	b.view(func(tx *store.Tx) error {
		due, err := tx.DueTimers(at(20), 9)
		b.same("due", due, []store.Timer{first, second})
		of, errOf := tx.TimersOf("escalation", "i1")
		b.same("of an incident", of, []store.Timer{first})
		next, errNext := tx.NextDue()
		b.same("next", next, at(15))
		return errors.Join(err, errOf, errNext)
	})
	b.update(func(tx *store.Tx) error { return tx.DeleteTimer(first) })
	b.view(func(tx *store.Tx) error {
		due, err := tx.DueTimers(at(20), 9)
		b.same("left", due, []store.Timer{second})
		return err
	})
}

func testExternal(t *testing.T, b *bench) {
	external := record("i1", "r", 10)
	external.Fingerprint, external.Expires, external.Reopened, external.Changed = "f", at(90), 2, at(11)
	external.Incident.Labels = map[string]string{"alertname": "X"}
	b.update(func(tx *store.Tx) error {
		return errors.Join(tx.PutIncident(external), tx.PutIncident(record("i2", "r", 20)))
	})
	b.view(func(tx *store.Tx) error {
		got, found, err := tx.ExternalIncident("f")
		b.same("external", []any{got, found}, []any{external, true})
		_, found, errOther := tx.ExternalIncident("other")
		b.same("one that there is not", found, false)
		open, errOpen := tx.OpenIncidents("r")
		b.same("no part of what Vigil finds", len(open), 1)
		all, errAll := tx.AllOpen(0)
		b.same("all", len(all), 2)
		return errors.Join(err, errOther, errOpen, errAll)
	})
	b.update(func(tx *store.Tx) error { return tx.SetExpiry("i1", at(30)) })
	b.view(func(tx *store.Tx) error {
		expired, err := tx.ExpiredIncidents(at(30), 9)
		b.same("expired", len(expired), 1)
		return err
	})
}

// testExternalPut: an incident that was put is found by its alert in the same
// transaction, whether or not the alert was looked for before.
func testExternalPut(_ *testing.T, b *bench) {
	external := record("i1", "r", 10)
	external.Fingerprint = "f"
	b.update(func(tx *store.Tx) error {
		if err := errors.Join(tx.PutIncident(external), tx.LookForExternal("f", "other")); err != nil {
			return err
		}
		got, found, err := tx.ExternalIncident("f")
		b.same("external", []any{got.Incident.GetIncidentId(), found}, []any{"i1", true})
		return err
	})
}

// testOutboxGroup: what is told of a group is as it was when it was told, and
// comes in the group's order, whatever incident it is about.
func testOutboxGroup(t *testing.T, b *bench) {
	put := func(incident string, n int32) {
		b.update(func(tx *store.Tx) error {
			return errors.Join(tx.PutIncident(record(incident, "r", 1)), tx.InsertNotification(store.Notification{
				IncidentID: incident, Receiver: "hook", State: firing, Created: at(int(n)), Group: &controlv1.GroupNotification{
					Key: "{}:{}", Labels: map[string]string{"run": "r"}, Truncated: n, Occasion: 2,
					Alerts: []*controlv1.Alert{{IncidentId: incident, State: resolved, Starts: stamp(1), Ends: stamp(2)}},
				}}))
		})
	}
	put("i1", 1)
	put("i2", 2)
	got := b.lease(9)
	if len(got) != 1 {
		t.Fatalf("leased %d, want the first of the group alone", len(got))
	}
	b.same("occasion", got[0].Occasion, alert.Update)
	b.same("group", got[0].Group.Labels, map[string]string{"run": "r"})
	b.same("truncated", got[0].Group.Truncated, 1)
	b.same("alert", []time.Time{got[0].Group.Alerts[0].StartsAt, got[0].Group.Alerts[0].EndsAt}, []time.Time{at(1), at(2)})
	b.same("dedup key of the incident", got[0].Group.Alerts[0].Key, "i1/hook")
	first := got[0].Key
	b.settle(alert.Outcome{ID: got[0].ID, Result: alert.Delivered, At: at(9)})
	got = b.lease(9)
	b.same("second", []string{got[0].Incident.GetIncidentId(), got[0].Key}, []string{"i2", first})
	put("i2", 3)
	b.update(func(tx *store.Tx) error {
		waits, err := tx.ForgetNotifications("i2")
		b.same("something waits", waits, true)
		return err
	})
}
