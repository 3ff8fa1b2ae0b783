package storetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// testManyFindings has many runs break in one transaction, whose findings are
// looked for together: what it sees of them is what is there afterwards.
func testManyFindings(t *testing.T, b *bench) {
	const count = 21
	name := func(n int) string { return fmt.Sprintf("%02d", n) }
	found := func(n int, of string, onset int64) *controlv1.Finding {
		return &controlv1.Finding{FindingId: of + name(n), RunId: "r" + name(n), Kind: of, OnsetStep: onset}
	}
	first := func(n int) *controlv1.Finding { return found(n, "first", 10) }
	earlier := func(n int) *controlv1.Finding { return found(n, "earlier", 5) }
	told := store.AlertMember{Told: firing, ToldSeverity: commonv1.Severity_SEVERITY_CRITICAL}
	seen := func(what string) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			for n := range count {
				cause, err := tx.Cause("i" + name(n))
				want := first(n)
				if n%2 == 1 {
					want = earlier(n)
				}
				b.same("cause "+what, cause, want)
				has, errHas := tx.HasFinding("i"+name(n), "first", 10)
				b.same("has it "+what, has, true)
				member := told
				member.IncidentID = "i" + name(n)
				members, errMembers := tx.AlertMembers("g" + name(n))
				b.same("members "+what, members, []store.AlertMember{member})
				if err := errors.Join(err, errHas, errMembers); err != nil {
					return err
				}
			}
			return nil
		}
	}
	b.update(func(tx *store.Tx) error { _, err := tx.PutFinding(found(99, "known", 1)); return err })
	b.update(func(tx *store.Tx) error {
		ids := []string{"known99"}
		for n := range count {
			ids = append(ids, first(n).GetFindingId(), earlier(n).GetFindingId())
		}
		if err := tx.LookForFindings(ids...); err != nil {
			return err
		}
		again, err := tx.PutFinding(found(99, "known", 1))
		b.same("one that was there is new", again, false)
		for n := range count {
			_, errRun := tx.Run("r" + name(n))
			b.same("there is a run", errRun == nil, false)
			err = errors.Join(err, tx.PutRun(&controlv1.Run{RunId: "r" + name(n)}, 1), openBroken(b, tx, "i"+name(n), "g"+name(n), first(n), told))
			if n%2 == 1 {
				_, errPut := tx.PutFinding(earlier(n))
				err = errors.Join(err, errPut, tx.AttachFinding("i"+name(n), earlier(n).GetFindingId()))
			}
			open, errOpen := tx.OpenIncidents("r" + name(n))
			b.same("open incidents of the run", len(open), 1)
			if err = errors.Join(err, errOpen); err != nil {
				return err
			}
		}
		return seen("in the transaction")(tx)
	})
	b.view(seen("afterwards"))
}

// testChangedFinding: a finding that is changed in the transaction that put it is
// the cause as it was changed, however it is asked for.
func testChangedFinding(_ *testing.T, b *bench) {
	put := &controlv1.Finding{FindingId: "f", RunId: "r", OnsetStep: 10, Summary: "as found"}
	changed := &controlv1.Finding{FindingId: "f", RunId: "r", OnsetStep: 10, Summary: "as changed"}
	cause := func(tx *store.Tx) error {
		got, err := tx.Cause("i")
		b.same("cause", got, changed)
		return err
	}
	b.update(func(tx *store.Tx) error {
		_, err := tx.PutFinding(put)
		tx.Opens("i")
		return errors.Join(err, tx.PutRun(&controlv1.Run{RunId: "r"}, 1), tx.PutIncident(record("i", "r", 1)),
			tx.ChangeFinding(changed), tx.AttachFinding("i", "f"), cause(tx))
	})
	b.view(cause)
}

// openBroken opens an incident of a run that broke, in a group of its own that
// was told of it.
func openBroken(b *bench, tx *store.Tx, id, group string, f *controlv1.Finding, told store.AlertMember) error {
	open, err := tx.OpenIncidents(f.GetRunId())
	b.same("open incidents of a new run", len(open), 0)
	inserted, errPut := tx.PutFinding(f)
	twice, errTwice := tx.PutFinding(f)
	b.same("inserted", []bool{inserted, twice}, []bool{true, false})
	tx.Opens(id)
	errIncident := tx.PutIncident(store.IncidentRecord{Incident: &controlv1.Incident{IncidentId: id, RunId: f.GetRunId(), State: firing}})
	errAttach := tx.AttachFinding(id, f.GetFindingId())
	_, there, errGroup := tx.AlertGroup(group)
	b.same("there is a group", there, false)
	_, errJoin := tx.JoinGroup(group, id)
	told.IncidentID = id
	return errors.Join(err, errPut, errTwice, errIncident, errAttach, errGroup, errJoin,
		tx.PutAlertMember(group, told), tx.PutAlertGroup(store.AlertGroup{ID: group, Labels: map[string]string{}}))
}
