package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// problem is a finding of a node.
func problem(id, node, name string, ms int) *controlv1.Finding {
	return &controlv1.Finding{
		FindingId: id, Node: node, Problem: name, Kind: "xid", Severity: commonv1.Severity_SEVERITY_WARNING, EventTime: stamp(ms),
	}
}

func testNodeProblems(t *testing.T, b *bench) {
	first, worse, other := problem("p1", "n1", "xid/a", 1), problem("p2", "n1", "xid/a", 3), problem("p3", "n2", "xid/a", 2)
	b.update(func(tx *store.Tx) error {
		err := tx.PutIncident(store.IncidentRecord{Incident: &controlv1.Incident{
			IncidentId: "i1", Node: "n1", Kind: "xid", State: firing, Opened: stamp(1), AffectedRuns: []string{"r"}}})
		for _, f := range []*controlv1.Finding{first, worse, other} {
			_, put := tx.PutFinding(f)
			err = errors.Join(err, put, tx.PutNodeProblem(f))
		}
		return errors.Join(err, tx.AttachFinding("i1", "p1"), tx.AttachFinding("i1", "p2"))
	})
	b.update(func(tx *store.Tx) error {
		all, err := tx.NodeProblems("")
		b.same("problems", all, []*controlv1.Finding{other, worse})
		of, errOf := tx.NodeProblems("n1")
		b.same("problems of n1", of, []*controlv1.Finding{worse})
		open, errOpen := tx.OpenProblems("i1")
		b.same("open problems", open, int64(1))
		r, ok, errRecord := tx.IncidentOf("p2")
		b.same("incident of p2", r.Incident.GetIncidentId(), "i1")
		_, none, errNone := tx.IncidentOf("p3")
		_, unknown, errUnknown := tx.IncidentOf("p9")
		b.same("found", []bool{ok, none, unknown}, []bool{true, false, false})
		// The incident hits a run, and is the run's too from then on.
		r.Incident.RunId = "r"
		return errors.Join(err, errOf, errOpen, errRecord, errNone, errUnknown, tx.PutIncident(r))
	})
	b.update(func(tx *store.Tx) error {
		ofRun, err := tx.OpenIncidents("r")
		ofNode, errNode := tx.OpenNodeIncidents("n1")
		listed, errListed := tx.NodeIncidents("n1", 10)
		b.same("incidents", []int{len(ofRun), len(ofNode), len(listed)}, []int{1, 1, 1})
		b.same("affected", listed[0].GetAffectedRuns(), []string{"r"})
		err = errors.Join(err, errNode, errListed, tx.EndNodeProblem("n1", "xid/a"), tx.EndNodeProblem("n1", "xid/a"))
		open, errOpen := tx.OpenProblems("i1")
		b.same("open problems at the end", open, int64(0))
		return errors.Join(err, errOpen)
	})
}

func testReplayMarks(t *testing.T, b *bench) {
	begin := stamp(0).AsTime()
	mark := func(tx *store.Tx) uint64 {
		sequence, err := tx.ReplayMark(time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return sequence
	}
	b.update(func(tx *store.Tx) error {
		b.same("mark of nothing", mark(tx), uint64(0))
		var errs []error
		for i := range uint64(30) { // one in ten minutes
			errs = append(errs, tx.MarkReplay(10+i, begin.Add(time.Duration(i)*10*time.Minute), time.Hour))
			if i == 3 {
				b.same("mark after half an hour", mark(tx), uint64(10))
			}
		}
		b.same("mark after five hours", mark(tx), uint64(10+29-6))
		return errors.Join(errs...)
	})
}
