package storetest

import (
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func run(id string, startedMS int) *controlv1.Run {
	loss := 0.25
	return &controlv1.Run{
		RunId: id, State: controlv1.RunState_RUN_STATE_RUNNING, Started: stamp(startedMS), Loss: &loss,
		Nodes: []string{"n1"}, Settings: map[string]string{"seed": "7"},
	}
}

func ids[T any](all []T, id func(T) string) []string {
	var names []string
	for _, one := range all {
		names = append(names, id(one))
	}
	return names
}

func testNodes(t *testing.T, b *bench) {
	one := &controlv1.Node{Name: "n1", State: controlv1.NodeState_NODE_STATE_CONNECTED, LastSeen: stamp(5)}
	b.update(func(tx *store.Tx) error {
		for _, n := range []*controlv1.Node{{Name: "n2"}, {Name: "n1"}, one} {
			if err := tx.PutNode(n); err != nil {
				return err
			}
		}
		return nil
	})
	b.view(func(tx *store.Tx) error {
		all, err := tx.Nodes()
		b.same("nodes", all, []*controlv1.Node{one, {Name: "n2"}})
		return err
	})
	b.view(func(tx *store.Tx) error {
		got, err := tx.Node("n1")
		b.same("node", got, one)
		return err
	})
}

func testRuns(t *testing.T, b *bench) {
	b.update(func(tx *store.Tx) error {
		for i, id := range []string{"r1", "r3", "r2"} {
			if err := tx.PutRun(run(id, []int{10, 30, 20}[i]), uint64(i+1)); err != nil {
				return err
			}
		}
		return nil
	})
	ended := run("r2", 20)
	ended.Ended, ended.State = stamp(99), controlv1.RunState_RUN_STATE_FAILED
	b.update(func(tx *store.Tx) error { return tx.PutRun(ended, 0) })
	id := func(r *controlv1.Run) string { return r.GetRunId() }
	b.view(func(tx *store.Tx) error {
		got, err := tx.Run("r2")
		b.same("run", got, ended)
		return err
	})
	b.view(func(tx *store.Tx) error {
		all, err := tx.Runs(0)
		b.same("newest first", ids(all, id), []string{"r3", "r2", "r1"})
		return err
	})
	b.view(func(tx *store.Tx) error {
		some, err := tx.Runs(2)
		b.same("limited", ids(some, id), []string{"r3", "r2"})
		return err
	})
	b.view(func(tx *store.Tx) error {
		open, err := tx.OpenRuns()
		b.same("open", ids(open, id), []string{"r3", "r1"})
		return err
	})
}

func testFirstOpenSequence(t *testing.T, b *bench) {
	want := func(sequence uint64, open bool) {
		t.Helper()
		b.view(func(tx *store.Tx) error {
			s, ok, err := tx.FirstOpenSequence()
			b.same("first open sequence", s, sequence)
			b.same("open", ok, open)
			return err
		})
	}
	want(0, false)
	early, late := run("early", 1), run("late", 2)
	b.update(func(tx *store.Tx) error { return tx.PutRun(late, 40) })
	b.update(func(tx *store.Tx) error { return tx.PutRun(early, 7) })
	b.update(func(tx *store.Tx) error { return tx.PutRun(early, 90) }) // the first one counts
	want(7, true)
	early.Ended = stamp(3)
	b.update(func(tx *store.Tx) error { return tx.PutRun(early, 0) })
	want(40, true)
	late.Ended = stamp(3)
	b.update(func(tx *store.Tx) error { return tx.PutRun(late, 0) })
	want(0, false)
}

func testAttempts(t *testing.T, b *bench) {
	first := &controlv1.Attempt{Attempt: 0, Started: stamp(1), Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE}
	b.update(func(tx *store.Tx) error {
		for _, a := range []*controlv1.Attempt{{Attempt: 10}, {Attempt: 2}, {Attempt: 0}, first} {
			if err := tx.PutAttempt("r", a); err != nil {
				return err
			}
		}
		return tx.PutAttempt("other", &controlv1.Attempt{})
	})
	b.view(func(tx *store.Tx) error {
		all, err := tx.Attempts("r")
		b.same("attempts", all, []*controlv1.Attempt{first, {Attempt: 2}, {Attempt: 10}})
		return err
	})
	b.view(func(tx *store.Tx) error {
		got, err := tx.Attempt("r", 0)
		b.same("attempt", got, first)
		return err
	})
}

func testCursor(t *testing.T, b *bench) {
	for _, want := range []uint64{0, 5, 3, 1 << 40} {
		if want > 0 {
			b.update(func(tx *store.Tx) error { return tx.SetCursor("pipeline", want) })
		}
		b.view(func(tx *store.Tx) error {
			got, err := tx.Cursor("pipeline")
			b.same("cursor", got, want)
			return err
		})
	}
}

func command(id, node string, createdMS, deadlineMS int) store.Command {
	return store.Command{
		ID: id, IdempotencyKey: "key/" + id, Node: node, RunID: "r", CheckpointID: "c", State: store.CommandPending,
		Created: at(createdMS), Deadline: at(deadlineMS), Wire: &agentv1.Command{CommandId: id, Deadline: stamp(deadlineMS)},
	}
}

func testCommands(t *testing.T, b *bench) {
	one, two, three := command("1", "n1", 30, 100), command("2", "n2", 10, 50), command("3", "n1", 20, 50)
	b.update(func(tx *store.Tx) error {
		for _, c := range []store.Command{one, two, three} {
			inserted, err := tx.InsertCommand(c)
			b.same("inserted", inserted, true)
			if err != nil {
				return err
			}
		}
		repeat := command("4", "n9", 1, 1)
		repeat.IdempotencyKey = one.IdempotencyKey
		inserted, err := tx.InsertCommand(repeat)
		b.same("inserted again", inserted, false)
		return err
	})
	b.view(func(tx *store.Tx) error {
		got, err := tx.Command(one.ID)
		b.same("the first command of the key stays", got, one)
		return err
	})
	id := func(c store.Command) string { return c.ID }
	lists := []struct {
		what string
		get  func(*store.Tx) ([]store.Command, error)
		want []string
	}{
		{"open of n1", func(tx *store.Tx) ([]store.Command, error) { return tx.OpenCommands("n1") }, []string{"3", "1"}},
		{"open of all", func(tx *store.Tx) ([]store.Command, error) { return tx.OpenCommands("") }, []string{"2", "3", "1"}},
		{"of checkpoint", func(tx *store.Tx) ([]store.Command, error) { return tx.CommandsOf("c") }, []string{"3", "1", "2"}},
		{"expired early", func(tx *store.Tx) ([]store.Command, error) { return tx.ExpiredCommands(at(49)) }, nil},
		{"expired", func(tx *store.Tx) ([]store.Command, error) { return tx.ExpiredCommands(at(50)) }, []string{"2", "3"}},
	}
	for _, list := range lists {
		b.view(func(tx *store.Tx) error {
			got, err := list.get(tx)
			b.same(list.what, ids(got, id), list.want)
			return err
		})
	}
}

func testCommandStates(t *testing.T, b *bench) {
	steps := []struct {
		set       store.CommandState
		errText   string
		want      store.CommandState
		wantError string
	}{
		{store.CommandSent, "", store.CommandSent, ""},
		{store.CommandPending, "back", store.CommandSent, ""},
		{store.CommandAccepted, "", store.CommandAccepted, ""},
		{store.CommandSent, "", store.CommandAccepted, ""},
		{store.CommandFailed, "no trainer", store.CommandFailed, "no trainer"},
		{store.CommandExpired, "late", store.CommandFailed, "no trainer"},
		{store.CommandDone, "", store.CommandFailed, "no trainer"},
	}
	b.update(func(tx *store.Tx) error { _, err := tx.InsertCommand(command("1", "n1", 1, 2)); return err })
	for _, step := range steps {
		b.update(func(tx *store.Tx) error { return tx.SetCommandState("1", step.set, step.errText) })
		b.view(func(tx *store.Tx) error {
			got, err := tx.Command("1")
			b.same("state", got.State, step.want)
			b.same("error", got.Error, step.wantError)
			return err
		})
	}
	b.view(func(tx *store.Tx) error {
		open, err := tx.OpenCommands("n1")
		b.same("open after it failed", len(open), 0)
		return err
	})
}
