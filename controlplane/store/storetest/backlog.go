package storetest

import (
	"testing"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/store"
)

func testBacklog(t *testing.T, b *bench) {
	backlog := func() (got store.Backlog) {
		t.Helper()
		b.view(func(tx *store.Tx) (err error) {
			got, err = tx.Backlog()
			return err
		})
		return got
	}
	empty := store.Backlog{Waiting: map[string]int64{}, Oldest: map[string]time.Time{}, Dead: map[string]int64{}}
	b.same("backlog of nothing", backlog(), empty)
	b.notify("i", "slack", firing, 5)
	b.notify("j", "slack", firing, 3)
	b.notify("k", "page", firing, 4)
	b.update(func(tx *store.Tx) error {
		for _, id := range []string{"c1", "c2"} {
			if _, err := tx.InsertCommand(command(id, "n", 1, 9000)); err != nil {
				return err
			}
		}
		return tx.SetCommandState("c2", store.CommandDone, "")
	})
	b.same("backlog", backlog(), store.Backlog{
		Waiting: map[string]int64{"slack": 2, "page": 1}, Oldest: map[string]time.Time{"slack": at(3), "page": at(4)}, Dead: map[string]int64{}, Commands: 1,
	})
	b.lease(10)
	b.settle(alert.Outcome{ID: "i/slack/1", Result: alert.Failed, At: at(7), Cause: "gone"}, alert.Outcome{ID: "k/page/1", Result: alert.Delivered, At: at(7)})
	b.same("backlog later", backlog(), store.Backlog{
		Waiting: map[string]int64{"slack": 1}, Oldest: map[string]time.Time{"slack": at(3)}, Dead: map[string]int64{"slack": 1}, Commands: 1,
	})
}
