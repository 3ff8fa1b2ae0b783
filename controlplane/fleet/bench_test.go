package fleet

import (
	"testing"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// BenchmarkCommandToStream measures from a command's commit until it is on the
// agent's stream, as us/send; ns/op is mostly the commit's sync to disk.
func BenchmarkCommandToStream(b *testing.B) {
	s := openStore(b)
	f := newFleet(b, s)
	putRun(b, s, "r1", controlv1.RunState_RUN_STATE_RUNNING, "n1")
	run(b, f)
	a := connect(b, f, "n1")
	var took time.Duration
	for b.Loop() {
		mustSave(b, f, SaveRequest{RunID: "r1", RequireConnected: true, Timeout: time.Second})
		committed := time.Now()
		command := a.next(b)
		took += time.Since(committed)
		update(b, s, func(tx *store.Tx) error { return tx.SetCommandState(command.CommandId, store.CommandDone, "") })
	}
	b.ReportMetric(float64(took.Microseconds())/float64(b.N), "us/send")
}
