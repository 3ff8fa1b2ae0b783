package routing

import (
	"testing"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/store"
)

// note has a person write into the newest incident's timeline.
func (d *desk) note(text string) {
	d.Helper()
	d.act(func(tx *store.Tx, a incident.Act) error {
		a.Comment = text
		return d.engine.Note(d.Context(), tx, a)
	})
}

// stories gives who is told what merely happened, and settles it.
func (d *desk) stories() []string {
	d.Helper()
	var to []string
	due, err := d.store.Outbox().Lease(d.Context(), 100, time.Hour)
	d.must(err)
	for _, one := range due {
		if one.Occasion != alert.Story || one.State != 0 {
			d.Errorf("%s is told %v of state %v", one.Receiver, one.Occasion, one.State)
		}
		to = append(to, one.Receiver)
		d.must(d.deliver(one.ID))
	}
	return to
}

// TestFollowers: those who follow an incident that they were told of get what
// happens to it, gathered, while it is neither over nor silenced; nobody else
// does, and it is no notification in the timeline.
func TestFollowers(t *testing.T) {
	d := newDesk(t, "", "a", "b")
	d.router.deps.Followers = []string{"b"}
	d.alert("X fires severity=critical")
	d.told("a firing X", "b firing X")
	d.note("bad data")
	d.wait(2 * time.Second)
	d.note("very bad data")
	d.wait(2 * time.Second)
	d.same("at once", d.stories(), []string(nil))
	d.wait(2 * time.Second)
	entries := len(d.timeline())
	d.same("a moment later", d.stories(), []string{"b"})
	d.same("new entries of the telling", len(d.timeline())-entries, 0)
	d.wait(time.Minute)
	d.same("nothing more", d.stories(), []string(nil))

	d.note("again")
	d.silence("alertname=X", time.Minute)
	d.wait(10 * time.Second)
	d.same("silenced", d.stories(), []string(nil))
	d.wait(2 * time.Minute)
	d.note("more")
	d.alert("X ends severity=critical")
	d.told("a resolved XR", "b resolved XR")
	d.wait(time.Minute)
	d.same("its end told the rest", d.stories(), []string(nil))
}

// TestStoriesOfWhatWasTold: of an incident that joined a group which was told of
// others nobody hears stories before they hear of it.
func TestStoriesOfWhatWasTold(t *testing.T) {
	d := newDesk(t, "route: {receiver: b, group_by: [cluster], group_wait: 1s, group_interval: 5m}", "b")
	d.router.deps.Followers = []string{"b"}
	d.alert("X fires severity=critical cluster=c")
	d.wait(2 * time.Second)
	d.told("b firing X")
	d.now = d.now.Add(time.Second)
	d.alert("Y fires severity=critical cluster=c")
	d.note("bad data")
	d.wait(time.Minute)
	d.same("before it was told", d.stories(), []string(nil))
	d.wait(5 * time.Minute)
	d.told("b firing X Y")
	d.note("very bad data")
	d.wait(10 * time.Second)
	d.same("after it was told", d.stories(), []string{"b"})
}

// TestNobodyFollows: without followers nothing waits.
func TestNobodyFollows(t *testing.T) {
	d := newDesk(t, "", "a")
	d.alert("X fires severity=critical")
	d.note("bad data")
	d.must(d.store.View(d.Context(), func(tx *store.Tx) error {
		waiting, err := tx.TimersOf(storyTimer, "")
		d.same("timers", len(waiting), 0)
		return err
	}))
}
