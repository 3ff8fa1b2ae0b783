package routing

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const stormy = `
route: {receiver: a, group_by: ['...'], routes: [{receiver: b, matchers: ['team="programs"']}]}
storm: {after: 3, within: 10s, except: [b]}
`

// firing gives "a firing X1", "a firing X2", ...
func firingOf(from, to int) []string {
	var all []string
	for n := from; n <= to; n++ {
		all = append(all, fmt.Sprintf("a firing X%d", n))
	}
	return all
}

// TestAStormIsToldTogether: the first problems are told by themselves, the rest
// in one message, what is worse by itself; and so is the end.
func TestAStormIsToldTogether(t *testing.T) {
	d := newDesk(t, stormy, "a", "b")
	for n := 1; n <= 40; n++ {
		d.alert(fmt.Sprintf("X%d fires severity=warning", n))
		d.wait(time.Millisecond)
	}
	d.told(firingOf(1, 3)...)
	if n := testutil.ToFloat64(d.router.rolledUp.WithLabelValues("a")); n != 37 {
		t.Errorf("%v are rolled up, want 37", n)
	}
	if log := strings.Join(d.timeline(), "\n"); !strings.Contains(log, "rolled-up: Too much begins at once: a is told of it in storm-") {
		t.Errorf("timeline of the newest: %s", log)
	}
	d.alert("Worse fires severity=critical")
	d.wait(time.Millisecond)
	d.alert("Y fires severity=warning team=programs")
	d.told("a firing Worse", "b firing Y")
	d.wait(stormWait)
	summary := d.storm(t)
	if !strings.HasPrefix(summary, "37 more problems began at once and are told together; 37 of them are open. X") {
		t.Errorf("the roll-up says %q", summary)
	}
	d.told("a firing storm")
	// The storm goes on: nothing by itself, one message for what came.
	d.wait(5 * time.Second)
	d.alert("Late fires severity=warning")
	d.told()
	d.configure(stormy, "a", "b") // a restart forgets nothing of it
	d.wait(stormEvery)
	d.told("a firing storm")
	// Then it is calm, and what begins is told by itself.
	d.alert("Calm fires severity=warning")
	d.told("a firing Calm")
	// Nobody hears one by one of the end of what was told together.
	for n := 1; n <= 40; n++ {
		d.alert(fmt.Sprintf("X%d ends severity=warning", n))
		d.wait(time.Millisecond)
	}
	d.told("a resolved X1R", "a resolved X2R", "a resolved X3R")
	d.alert("Late ends severity=warning")
	d.wait(stormEvery)
	d.told("a resolved stormR")
	d.wait(2 * stormEvery)
	d.told()
}

// storm gives the summary of the storm that goes on.
func (d *desk) storm(t *testing.T) (summary string) {
	t.Helper()
	d.must(d.store.View(t.Context(), func(tx *store.Tx) error {
		all, err := tx.Incidents("", 0)
		for _, i := range all {
			if isStorm(i) && i.GetState() == controlv1.IncidentState_INCIDENT_STATE_FIRING {
				summary = i.GetSummary()
			}
		}
		return err
	}))
	return summary
}

// TestAPersonCanEndAStorm: resolving its incident is told, and what begins then
// is another storm.
func TestAPersonCanEndAStorm(t *testing.T) {
	d := newDesk(t, stormy, "a", "b")
	for n := 1; n <= 5; n++ {
		d.alert(fmt.Sprintf("X%d fires severity=warning", n))
		d.wait(time.Millisecond)
	}
	d.wait(stormWait)
	d.told(append(firingOf(1, 3), "a firing storm")...)
	d.must(d.store.Update(t.Context(), func(tx *store.Tx) error {
		all, err := tx.Incidents("", 0)
		for _, i := range all {
			if isStorm(i) {
				err = errors.Join(err, d.engine.Resolve(t.Context(), tx, incident.Act{IncidentID: i.GetIncidentId(), Author: "ada"}))
			}
		}
		return err
	}))
	d.wait(stormEvery)
	d.told("a resolved stormR")
}

func TestTides(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	warning, critical := commonv1.Severity_SEVERITY_WARNING, commonv1.Severity_SEVERITY_CRITICAL
	of := newTides(route.StormConfig{After: 2, Within: 10 * time.Second, Except: []string{"log"}})
	for n, test := range []struct {
		after    time.Duration
		receiver string
		severity commonv1.Severity
		want     bool
	}{
		{0, "a", warning, false}, {time.Second, "a", warning, false}, {0, "a", warning, true}, {0, "b", warning, false},
		{0, "a", critical, false},
		{9 * time.Second, "a", warning, true}, {9 * time.Second, "a", warning, true}, // it has not been calm
		{11 * time.Second, "a", warning, false}, {0, "log", warning, false}, {0, "log", warning, false}, {0, "log", warning, false},
		{11 * time.Second, "a", warning, false}, {0, "a", warning, false}, {0, "a", warning, true},
	} {
		now = now.Add(test.after)
		if got := of.high(test.receiver, test.severity, now); got != test.want {
			t.Errorf("step %d: %v, want %v", n, got, test.want)
		}
	}
	never := newTides(route.StormConfig{})
	for range 1000 {
		if never.high("a", critical, now) {
			t.Fatal("it is switched off")
		}
	}
}
