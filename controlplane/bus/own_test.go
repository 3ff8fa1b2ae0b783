package bus

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestOwnWord: what the control plane says of a node has positions of its own,
// is stored once, survives a restart, and is part of the node's history but of
// no run's.
func TestOwnWord(t *testing.T) {
	dir := t.TempDir()
	own := func(sequence uint64) Message {
		m := frame("n.1", "", 7, sequence)
		m.Own = true
		return m
	}
	b := openBus(t, testConfig(dir))
	if _, ok, err := b.LastOwn(t.Context(), "n.1"); ok || err != nil {
		t.Fatalf("LastOwn of an empty bus: %v, %v", ok, err)
	}
	publish(t, b, frame("n.1", "", 1, 1))
	publish(t, b, own(1))
	publish(t, b, own(1)) // a repeat
	publish(t, b, frame("n.1", "r", 1, 2))
	publish(t, b, frame("n-1", "", 1, 1)) // another node
	b.Close()

	b = openBus(t, testConfig(dir))
	publish(t, b, own(1))
	publish(t, b, own(2))
	publish(t, b, frame("n.1", "", 1, 3))
	last, ok, err := b.LastOwn(t.Context(), "n.1")
	if err != nil || !ok || last.Position.Sequence != 2 || !last.Own || last.Node != "n.1" {
		t.Errorf("LastOwn = %+v, %v, %v", last, ok, err)
	}
	if p, err := b.Last(t.Context(), "n.1"); err != nil || p.Epoch != 1 || p.Sequence != 3 {
		t.Errorf("the agent goes on from %v, %v", p, err)
	}
	var got []string
	err = b.NodeHistory(t.Context(), "n.1", false, func(d Delivery) error {
		text := positionText(d.Position)
		if d.Own {
			text += " own"
		}
		got = append(got, text)
		return nil
	})
	if diff := cmp.Diff([]string{"1/1", "7/1 own", "7/2 own", "1/3"}, got); diff != "" || err != nil {
		t.Errorf("history of the node, %v (-want +got):\n%s", err, diff)
	}
	if err := b.NodeHistory(t.Context(), "nobody", false, func(Delivery) error { t.Error("a frame of nobody"); return nil }); err != nil {
		t.Error(err)
	}
	if all := take(t, b, 1, 6); len(all) != 6 {
		t.Errorf("the bus holds %d frames, want 6", len(all))
	}
}

func TestHistoryOfNoRunIsRefused(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	if err := b.History(t.Context(), "", false, func(Delivery) error { return nil }); err == nil {
		t.Error("the history of no run was given")
	}
}
