package storetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/store"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

func testAgreement(t *testing.T, b *bench) {
	post := func(run string, round uint32, name, content string) (posted bool) {
		b.update(func(tx *store.Tx) (err error) {
			posted, err = tx.PostAgreement(run, &agentv1.AgreementNote{Round: round, Name: name, Content: []byte(content)})
			return err
		})
		return posted
	}
	read := func(run string, after int64) (names []string) {
		b.view(func(tx *store.Tx) error {
			notes, err := tx.Agreement(run, after)
			for i, n := range notes {
				names = append(names, n.Name+"="+string(n.Content))
				if i > 0 && n.Place <= notes[i-1].Place {
					t.Errorf("note %s is at place %d, behind %d", n.Name, n.Place, notes[i-1].Place)
				}
			}
			return err
		})
		return names
	}
	changed := b.store.Changed(store.TopicAgreement)
	if !post("r", 1, "plan", "a") || post("r", 1, "plan", "b") || !post("r", 1, "joined", "") || !post("other", 1, "plan", "c") {
		t.Error("a note is written once, by whoever is first, in each run")
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was woken")
	}
	if diff := cmp.Diff([]string{"plan=a", "joined="}, read("r", 0)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	post("r", 2, "plan", "d")
	if diff := cmp.Diff([]string{"plan=d"}, read("r", 2)); diff != "" {
		t.Errorf("behind place 2 (-want +got):\n%s", diff)
	}
	post("r", 3, "plan", "e") // round 1 goes
	if diff := cmp.Diff([]string{"plan=d", "plan=e"}, read("r", 0)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"plan=c"}, read("other", 0)); diff != "" {
		t.Errorf("another run (-want +got):\n%s", diff)
	}
	b.clock.advance(8 * 24 * time.Hour)
	post("third", 1, "plan", "f") // what is old goes
	if diff := cmp.Diff([]string{"plan=e"}, read("r", 0)); diff != "" {
		t.Errorf("old notes (-want +got):\n%s", diff)
	}
	post("r", 4, "plan", "g")
	if diff := cmp.Diff([]string{"plan=g"}, read("r", 4)); diff != "" {
		t.Errorf("behind the last that was read before (-want +got):\n%s", diff)
	}
}
