package alerting

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
)

func TestATryThatWasPutOffIsMadeWhenItIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const wait = 1234 * time.Millisecond
		throttled := outage(wait, func(context.Context) error { return notify.Throttled(errors.New("429"), wait) })
		r := newRig(t, map[string]behaviour{"ops": throttled, "other": func(context.Context, alert.Delivery) error { return nil }})
		defer r.start(t)()
		r.queue.put("d", "ops")
		time.Sleep(wait / 2)
		r.queue.put("e", "other")
		time.Sleep(wait)
		synctest.Wait()
		if got := r.queue.get(t, "d"); got.state != "delivered" || got.at.Sub(got.Created) > wait+time.Millisecond {
			t.Errorf("it is %q after %v, want delivered after %v", got.state, got.at.Sub(got.Created), wait)
		}
	})
}

func TestAgendaKeepsTheEarliest(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	a := &agenda{}
	if got := a.wait(now, time.Second); got != time.Second {
		t.Errorf("an empty one waits %v", got)
	}
	for n := 2 * putOffHeld; n > 0; n-- {
		a.add(now.Add(time.Duration(n) * time.Minute))
		a.add(now.Add(time.Duration(n) * time.Minute))
	}
	if len(a.at) != putOffHeld || a.at[0] != now.Add(time.Minute) {
		t.Errorf("it has %d, the first at %v", len(a.at), a.at[0])
	}
	if got := a.wait(now.Add(90*time.Second), time.Hour); got != 30*time.Second {
		t.Errorf("it waits %v, want 30s", got)
	}
}
