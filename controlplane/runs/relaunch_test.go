package runs_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane/runs"
	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// TestRelaunch has a run end and begin again with the number of an attempt that
// it had, while late word of its first life comes from another node.
func TestRelaunch(t *testing.T) {
	stop := &commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_STOPPED, Step: 9, ParametersSha256: "ab", Explanation: "asked to"}
	first := []*commonv1.Event{what("n1", 1, 0, 1, registered(2)), what("n1", 1, 0, 2, step(9, 1)), what("n1", 1, 0, 3, stop)}
	for name, launch := range map[string]*commonv1.Event{
		"trainer registered": what("n1", 1, 0, 5, registered(2)),
		"lower attempt":      what("n1", 0, 0, 5, registered(2)),
		"higher attempt":     what("n1", 2, 0, 5, registered(2)),
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			apply(t, s, first...)
			apply(t, s, what("n1", 1, 0, 3, registered(2))) // not later than the end
			if run, _ := records(t, s); run.GetState() != stopped {
				t.Fatalf("run is %v before it is launched again", run)
			}
			apply(t, s, launch,
				what("n2", 1, 1, 2, step(9, 1)), what("n2", 1, 1, 3, ended(1, crash, false)), what("n2", 1, 1, 4, stop))
			loss := 0.5
			apply(t, s, what("n1", launch.GetAttempt(), 0, 6, step(1, loss)))
			run, attempts := records(t, s)
			want := &controlv1.Run{RunId: "r", State: running, Started: at(1), Name: "digits", TotalSteps: 900, WorldSize: 2,
				Nodes: []string{"n1"}, Settings: map[string]string{"seed": "7"}, Attempt: launch.GetAttempt(), Step: 1, Loss: &loss}
			if diff := cmp.Diff(want, run, protocmp.Transform()); diff != "" {
				t.Errorf("run (-want +got):\n%s", diff)
			}
			for _, a := range attempts {
				fresh := &controlv1.Attempt{Attempt: launch.GetAttempt(), Started: at(5)}
				if diff := cmp.Diff(fresh, a, protocmp.Transform()); a.GetAttempt() == fresh.GetAttempt() && diff != "" {
					t.Errorf("attempt (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestEndFailsUnsaved: nobody is left to write what was only asked for.
func TestEndFailsUnsaved(t *testing.T) {
	s := openStore(t)
	states := map[string]commonv1.CheckpointState{
		"asked":  commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED,
		"told":   commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED,
		"staged": commonv1.CheckpointState_CHECKPOINT_STATE_STAGED,
	}
	apply(t, s, what("n1", 0, 0, 1, registered(1)))
	update := func(do func(tx *store.Tx) error) {
		if err := s.Update(t.Context(), do); err != nil {
			t.Fatal(err)
		}
	}
	update(func(tx *store.Tx) error {
		for id, state := range states {
			if err := tx.PutCheckpoint(&controlv1.Checkpoint{CheckpointId: id, RunId: "r", State: state}); err != nil {
				return err
			}
		}
		return tx.PutCheckpoint(&controlv1.Checkpoint{CheckpointId: "another's", RunId: "q", State: states["asked"]})
	})
	apply(t, s, what("n1", 0, 0, 2, &commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_STOPPED}))
	update(func(tx *store.Tx) error {
		for id, want := range map[string]string{"asked": "the run ended", "told": "the run ended", "staged": "", "another's": ""} {
			c, err := tx.Checkpoint(id)
			over := c.GetState() == commonv1.CheckpointState_CHECKPOINT_STATE_FAILED
			if err != nil || c.GetError() != want || over != (want != "") {
				t.Errorf("checkpoint %s is %v (%v), want error %q", id, c, err, want)
			}
		}
		return nil
	})
}

// TestRelaunchMovesFirstSequence: the detectors of a run that begins again need
// nothing from before, which the bus may not have any more.
func TestRelaunchMovesFirstSequence(t *testing.T) {
	end := what("n1", 0, 0, 2, &commonv1.RunEnded{})
	events := []*commonv1.Event{what("n1", 0, 0, 1, registered(1)), end, what("n1", 0, 0, 3, registered(1))}
	together, apart := openStore(t), openStore(t)
	apply(t, together, events...) // frames 100, 101, 102
	apply(t, apart, events[:2]...)
	err := apart.Update(t.Context(), func(tx *store.Tx) error { return runs.Apply(t.Context(), tx, 300, events[2]) })
	if err != nil {
		t.Fatal(err)
	}
	for want, s := range map[uint64]*store.Store{102: together, 300: apart} {
		err := s.View(t.Context(), func(tx *store.Tx) error {
			sequence, open, err := tx.FirstOpenSequence()
			if sequence != want || !open {
				t.Errorf("first open sequence is %d (%v), want %d", sequence, open, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
