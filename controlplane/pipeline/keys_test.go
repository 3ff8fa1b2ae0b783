package pipeline

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// That an agent used the key of its checkpoints goes into the audit log, once,
// and into the same transaction as the cursor; it is of no run.
func TestKeyUseIsAudited(t *testing.T) {
	s := &nodeStory{now: start}
	for _, use := range []string{"open", "rewrap"} {
		s.frame("n1", "", true, &commonv1.Event{Body: &commonv1.Event_KeyUsed{KeyUsed: &commonv1.KeyUsed{Use: use, KekId: "k"}}})
	}
	path := filepath.Join(t.TempDir(), "store.db")
	var told []string
	for range 2 { // and again after a restart
		p, kept := setup(t, path, &fakeBus{frames: s.frames})
		p.deps.Audit = func(_ *store.Tx, e *commonv1.Event) error {
			told = append(told, e.GetNode()+" "+e.GetKeyUsed().GetUse())
			return nil
		}
		run(t, p)
		if err := kept.View(t.Context(), func(tx *store.Tx) error {
			runs, err := tx.Runs(0)
			if len(runs) != 0 {
				t.Errorf("it is taken for a run's: %v", runs)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := kept.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(told, ", "); got != "n1 open, n1 rewrap" {
		t.Errorf("audited: %s", got)
	}
}
