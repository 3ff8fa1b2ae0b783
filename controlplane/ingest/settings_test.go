package ingest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestSettingsAreToldAndChecked(t *testing.T) {
	off := true
	c := Defaults()
	c.Collectors = map[string]Collector{"tasks": {Off: &off}, "host": {Interval: time.Second}}
	got := settingsOf(c.Collectors).GetCollectors()
	if host := got["host"]; host.Off != nil || host.GetInterval().AsDuration() != time.Second {
		t.Errorf("host: %v", host)
	}
	if tasks := got["tasks"]; !tasks.GetOff() || tasks.GetInterval() != nil {
		t.Errorf("tasks: %v", tasks)
	}
	c.Collectors["host"] = Collector{Interval: time.Millisecond}
	var keys []string
	c.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
	if diff := cmp.Diff([]string{"collectors.host.interval"}, keys); diff != "" {
		t.Error(diff)
	}
}

// Agents that are connected are told what changes, and those that come later
// what holds then.
func TestSettingsThatChangeAreTold(t *testing.T) {
	p := start(t, t.TempDir())
	a, welcome := p.connect("a")
	b, _ := p.connect("b")
	if len(welcome.GetSettings().GetCollectors()) != 0 {
		t.Errorf("Welcome has settings: %v", welcome)
	}
	everySecond := map[string]Collector{"host": {Interval: time.Second}}
	if !p.service.SetCollectors(everySecond) || p.service.SetCollectors(everySecond) {
		t.Error("it is a change the first time and none the second")
	}
	for _, agent := range []*agent{a, b} {
		if got := agent.hear().GetSettings().GetCollectors()["host"].GetInterval().AsDuration(); got != time.Second {
			t.Errorf("told an interval of %v, want a second", got)
		}
	}
	_, welcome = p.connect("late")
	if got := welcome.GetSettings().GetCollectors()["host"].GetInterval().AsDuration(); got != time.Second {
		t.Errorf("who comes later is told %v", welcome)
	}
	p.service.SetCollectors(nil)
	if got := a.hear().GetSettings(); got == nil || len(got.GetCollectors()) != 0 {
		t.Errorf("told %v, want that nothing is set any more", got)
	}
	if got := testutil.ToFloat64(p.service.resent); got < 3 || got > 5 { // the others may be told yet
		t.Errorf("%v settings were sent", got)
	}
	a.say(say(eventFrame("r", 1, 1)))
	a.acked(events, 1, 1) // the session goes on
}
