package routing

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const oneReceiver = "route: {receiver: a, group_by: [alertname]}"

// TestAtOnce: without times of their own, groups are told at once; what follows
// is coalesced, but what ends or is taken is told at once too.
func TestAtOnce(t *testing.T) {
	d := newDesk(t, oneReceiver, "a")
	d.alert("X fires i=1")
	d.told("a firing X1")
	d.alert("X fires i=2")
	d.alert("X fires i=3")
	d.told()
	d.wait(29 * time.Second)
	d.told()
	d.wait(time.Second)
	d.told("a firing X1 X2 X3")
	d.alert("X ends i=1")
	d.told()
	d.alert("X ends i=2")
	d.alert("X ends i=3")
	d.told("a resolved X1R X2R X3R")
	d.wait(5 * time.Hour)
	d.told()
}

// TestTogether: of what comes in one request the cause is known before its
// effects are told; and what it says twice is one alert, of which the last word
// counts.
func TestTogether(t *testing.T) {
	d := newDesk(t, "route: {receiver: a, group_by: [alertname, i]}\n"+
		"inhibit_rules: [{source_matchers: [alertname=Cause], target_matchers: [alertname=Effect], equal: [i]}]", "a")
	d.alert("Effect fires i=1", "Effect fires i=2", "Cause fires i=1")
	d.told("a firing Effect2", "a firing Cause1")
	d.alert("Twice fires", "Twice fires", "Once fires")
	d.told("a firing Twice", "a firing Once")
	d.alert("Brief fires", "Brief ends")
	d.told("a firing Brief", "a resolved BriefR")
}

// TestRepeat: what fires is told again, what is acknowledged is not.
func TestRepeat(t *testing.T) {
	d := newDesk(t, "route: {receiver: a, group_by: [alertname], repeat_interval: 10m}", "a")
	d.alert("X fires")
	d.wait(11 * time.Minute)
	d.told("a firing X", "a firing X")
	d.acknowledge()
	d.told("a acknowledged X")
	d.wait(time.Hour)
	d.told()
	d.alert("X ends")
	d.told("a resolved X" + "R")
}

// TestDefaultTree: every receiver hears of what calls a person, nobody of a
// warning.
func TestDefaultTree(t *testing.T) {
	d := newDesk(t, "", "a", "b")
	d.alert("X fires severity=warning")
	d.told()
	d.alert("X fires severity=critical")
	d.told("a firing X", "b firing X")
	d.alert("X ends severity=critical")
	d.told("a resolved XR", "b resolved XR")
}

// TestFlapping: an alert that comes and goes is told less and less often, and
// its last state is told in the end.
func TestFlapping(t *testing.T) {
	d := newDesk(t, "route: {receiver: a, group_by: [incident]}", "a")
	for range 20 {
		d.alert("X fires")
		d.wait(10 * time.Second)
		d.alert("X ends")
		d.wait(10 * time.Second)
	}
	d.wait(time.Hour)
	var states []string
	for {
		due, err := d.store.Outbox().Lease(t.Context(), 100, time.Hour)
		d.must(err)
		if len(due) == 0 {
			break
		}
		for _, one := range due {
			d.must(d.deliver(one.ID))
			states = append(states, one.State.String()[15:])
		}
	}
	if len(states) < 6 || len(states) > 20 {
		t.Errorf("told %d times of 40 changes, want it damped: %q", len(states), states)
	}
	if last := states[len(states)-1]; last != "RESOLVED" {
		t.Errorf("the last word is %s, want the end", last)
	}
	d.wait(time.Hour)
	d.alert("X fires")
	d.told("a firing X")
}

// TestSilenceEnds: what still fires when its silence ends is told then.
func TestSilenceEnds(t *testing.T) {
	d := newDesk(t, oneReceiver, "a")
	d.silence("i=1", time.Minute)
	d.alert("X fires i=1")
	d.alert("Y fires i=2")
	d.told("a firing Y2")
	d.wait(50 * time.Second)
	d.told()
	d.wait(20 * time.Second)
	d.told("a firing X1")
	if id := d.silence("alertname=Y", time.Hour); id == "" {
		t.Error("no id")
	}
	if got := d.timeline(); !strings.Contains(strings.Join(got, "\n"), "ada silenced it until 2026-03-01 04:13:10 UTC: known") &&
		!strings.Contains(strings.Join(got, "\n"), "opened: X fires.") {
		t.Errorf("timeline: %q", got)
	}
}

// TestSilencesAreKept: what may change in place does; what may not makes another.
func TestSilencesAreKept(t *testing.T) {
	d := newDesk(t, oneReceiver, "a")
	id := d.silence("i=1", time.Hour)
	change := func(edit func(*controlv1.Silence)) (made *controlv1.Silence, err error) {
		err = d.store.Update(t.Context(), func(tx *store.Tx) error {
			s, err := tx.Silence(id)
			if err != nil {
				return err
			}
			edit(s)
			made, err = d.router.SetSilence(tx, s)
			return err
		})
		return made, err
	}
	longer, err := change(func(s *controlv1.Silence) { s.Ends = timestamppb.New(d.now.Add(2 * time.Hour)) })
	d.must(err)
	d.same("longer", longer.GetSilenceId(), id)
	other, err := change(func(s *controlv1.Silence) { s.Matchers[0].Value = "2" })
	d.must(err)
	if other.GetSilenceId() == id {
		t.Error("other matchers were taken over in place")
	}
	for what, edit := range map[string]func(*controlv1.Silence){
		"no matchers":     func(s *controlv1.Silence) { s.Matchers = nil },
		"matches all":     func(s *controlv1.Silence) { s.Matchers[0].Operator, s.Matchers[0].Value = 3, ".*" },
		"bad expression":  func(s *controlv1.Silence) { s.Matchers[0].Operator, s.Matchers[0].Value = 3, "(" },
		"no operator":     func(s *controlv1.Silence) { s.Matchers[0].Operator = 0 },
		"no author":       func(s *controlv1.Silence) { s.Author = "" },
		"no comment":      func(s *controlv1.Silence) { s.Comment = "" },
		"ends before":     func(s *controlv1.Silence) { s.Ends = timestamppb.New(d.now.Add(-time.Hour)) },
		"no end":          func(s *controlv1.Silence) { s.Ends = nil },
		"comment too big": func(s *controlv1.Silence) { s.Comment = strings.Repeat("x", commentMost+1) },
	} {
		if _, err := change(edit); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}
	expire := func(id string) error {
		return d.store.Update(t.Context(), func(tx *store.Tx) error {
			_, err := d.router.ExpireSilence(tx, id, "ada")
			return err
		})
	}
	d.must(expire(other.GetSilenceId()))
	if err := expire(other.GetSilenceId()); !fault.Is(err, fault.Precondition) {
		t.Errorf("expired twice: %v", err)
	}
}

// TestEscalation: steps follow until somebody acknowledges; who was told hears
// of the end.
func TestEscalation(t *testing.T) {
	config := "route: {receiver: a, group_by: [incident]}\nescalations:\n- name: night\n  matchers: ['severity=\"critical\"']\n" +
		"  steps: [{after: 5m, receivers: [b]}, {after: 10m, receivers: [b, c]}, {after: 10m, receivers: [c]}]\n"
	d := newDesk(t, config, "a", "b", "c")
	d.alert("X fires severity=critical")
	d.told("a firing X")
	d.alert("Y fires severity=warning")
	d.told("a firing Y")
	d.wait(5 * time.Minute)
	d.told("b firing X")
	d.configure(config, "a", "b", "c") // a restart changes nothing
	d.wait(10 * time.Minute)
	var both []string
	due, err := d.store.Outbox().Lease(t.Context(), 100, time.Hour)
	d.must(err)
	for _, one := range due {
		both = append(both, one.Receiver+" "+one.Group.Reason)
		d.must(d.deliver(one.ID))
	}
	slices.Sort(both)
	d.same("second step", both, []string{"b night, step 2", "c night, step 2"})
	d.must(d.store.Update(t.Context(), func(tx *store.Tx) error {
		open, err := tx.AllOpen(0)
		for _, record := range open {
			if record.Incident.GetKind() == "X" && err == nil {
				err = d.engine.Acknowledge(t.Context(), tx, incident.Act{IncidentID: record.Incident.GetIncidentId(), Author: "ada"})
			}
		}
		return err
	}))
	d.wait(time.Hour)
	d.alert("X ends severity=critical")
	var all []string
	due, err = d.store.Outbox().Lease(t.Context(), 100, time.Hour)
	d.must(err)
	for len(due) > 0 {
		for _, one := range due {
			all = append(all, one.Receiver+" "+one.State.String()[15:])
			d.must(d.deliver(one.ID))
		}
		due, err = d.store.Outbox().Lease(t.Context(), 100, time.Hour)
		d.must(err)
	}
	for _, receiver := range []string{"a", "b", "c"} {
		if !slices.Contains(all, receiver+" RESOLVED") {
			t.Errorf("%s did not hear of the end: %q", receiver, all)
		}
	}
}

// TestHeartbeat: a beat each interval, one at most that waits, and nothing in
// the lists.
func TestHeartbeat(t *testing.T) {
	d := newDesk(t, "heartbeats: [{name: out, receiver: a, interval: 1m}]", "a")
	d.wait(time.Second)
	d.told("a firing Watchdog")
	d.wait(3 * time.Minute)
	d.told("a firing Watchdog")
	d.must(d.store.View(t.Context(), func(tx *store.Tx) error {
		open, err := tx.AllOpen(0)
		d.same("open", len(open), 0)
		return err
	}))
	d.configure("", "a")
	d.wait(3 * time.Minute)
	d.told()
}

// TestOtherConfiguration: groups of routes that are no more are forgotten, and
// what is open goes where it now belongs.
func TestOtherConfiguration(t *testing.T) {
	d := newDesk(t, oneReceiver, "a", "b")
	d.alert("X fires")
	d.told("a firing X")
	d.configure(oneReceiver, "a", "b")
	d.told()
	d.configure("route: {receiver: b, group_by: [alertname], routes: [{receiver: a, matchers: [alertname=Y]}]}", "a", "b")
	d.told("b firing X")
}

// TestPlanRefuses: names that nothing has.
func TestPlanRefuses(t *testing.T) {
	for config, want := range map[string]string{
		"route: {receiver: x}":     `there is no receiver "x"`,
		"route: {matchers: [a=b]}": "the root route names no receiver; the root route has matchers",
		"route: {receiver: a, routes: [{mute_time_intervals: [t]}]}": `there is no time interval "t"`,
		"not_resolved: [x]": `there is no receiver "x"`,
		"heartbeats: [{name: h, receiver: x, interval: 1m}]":                                                                `there is no receiver "x"`,
		"escalations: [{name: e, steps: [{after: 1m, receivers: [x]}]}]":                                                    `there is no receiver "x"`,
		"route: {receiver: a, continue: true, active_time_intervals: [t]}\ntime_intervals: [{name: t, time_intervals: []}]": "the root route has continue; the root route has time intervals",
	} {
		c := newConfig(t, config)
		if _, err := c.Plan([]string{"a"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
}
