package alerting

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestASlowReceiverDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context, _ alert.Delivery) error {
			<-ctx.Done()
			return ctx.Err()
		}
		prompt := &tries{answers: []error{nil}}
		r := newRig(t, map[string]behaviour{"hangs": hangs, "prompt": prompt.notify})
		defer r.start(t)()
		for i := range laneJobs + 500 { // more than its lanes hold
			r.queue.put(fmt.Sprint("h", i), "hangs")
		}
		synctest.Wait()
		for i := range 20 {
			time.Sleep(7 * time.Second) // through leases that run out
			id := fmt.Sprint("p", i)
			r.queue.put(id, "prompt")
			synctest.Wait()
			if got := r.queue.get(t, id); got.state != "delivered" || !got.at.Equal(got.Created) {
				t.Fatalf("%s is %q after %v", id, got.state, got.at.Sub(got.Created))
			}
		}
		if n := len(prompt.times()); n != 20 {
			t.Errorf("the prompt receiver was tried %d times, want 20", n)
		}
	})
}

func TestWhatWaitsLongerThanItsLeaseIsDeliveredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		arrived := map[string]int{}
		r := newRig(t, map[string]behaviour{"slow": func(_ context.Context, d alert.Delivery) error {
			time.Sleep(9 * time.Second)
			mu.Lock()
			defer mu.Unlock()
			arrived[d.ID]++
			return nil
		}})
		defer r.start(t)()
		for i := range 100 {
			r.queue.put(fmt.Sprint("d", i), "slow")
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		for id, n := range arrived {
			if n != 1 {
				t.Errorf("%s arrived %d times", id, n)
			}
		}
		if len(arrived) != 100 || r.queue.open() != 0 {
			t.Errorf("%d of 100 arrived, %d are open", len(arrived), r.queue.open())
		}
	})
}

func TestNoTryOutlivesItsLease(t *testing.T) {
	s := &tries{answers: []error{nil}}
	r := newRig(t, map[string]behaviour{"ops": s.notify})
	c := r.receivers["ops"]
	for _, ends := range []time.Duration{r.config.TryTimeout / 2, -time.Second} {
		r.deliver(t.Context(), c, job{Delivery: alert.Delivery{ID: "d1", Receiver: "ops"}, leaseEnds: time.Now().Add(ends)})
	}
	if len(s.times()) != 0 || r.count("ops", resultDeferred) != 1 {
		t.Errorf("tried %d times, deferred %v", len(s.times()), r.count("ops", resultDeferred))
	}
}

func TestStopsWithoutLosingOrHoldingAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]behaviour{"hangs": func(ctx context.Context, _ alert.Delivery) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		stop := r.start(t)
		for i := range 50 {
			r.queue.put(fmt.Sprint("d", i), "hangs")
		}
		synctest.Wait()
		stop()
		due, err := r.queue.Lease(t.Context(), 100, time.Minute)
		if err != nil || len(due) != 50 {
			t.Errorf("after a stop %d of 50 are due at once, %v", len(due), err)
		}
	})
}

func TestADeliveryThatArrivedWhileStoppingIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]behaviour{"ops": func(ctx context.Context, _ alert.Delivery) error {
			<-ctx.Done() // the stop comes when the receiver has it
			return nil
		}})
		stop := r.start(t)
		r.queue.put("d1", "ops")
		synctest.Wait()
		stop()
		if got := r.queue.get(t, "d1"); got.state != "delivered" {
			t.Errorf("state = %q, want delivered", got.state)
		}
	})
}

func TestALeaseThatRunsOutIsTakenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tries{answers: []error{nil}}
		r := newRig(t, map[string]behaviour{"ops": s.notify})
		r.queue.put("d1", "ops")
		// Another process took it and died.
		if due, err := r.queue.Lease(t.Context(), 1, leaseFor); err != nil || len(due) != 1 {
			t.Fatal(due, err)
		}
		defer r.start(t)()
		time.Sleep(leaseFor - time.Second)
		if len(s.times()) != 0 {
			t.Error("it was taken before its lease had run out")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := r.queue.get(t, "d1"); got.state != "delivered" || got.Tries != 2 {
			t.Errorf("state %q after %d tries", got.state, got.Tries)
		}
	})
}

func TestTheQueueMayBeAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tries{answers: []error{nil}}
		r := newRig(t, map[string]behaviour{"ops": s.notify})
		r.queue.setAway(true)
		defer r.start(t)()
		r.queue.put("d1", "ops")
		time.Sleep(time.Hour)
		r.queue.setAway(false)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := r.queue.get(t, "d1"); got.state != "delivered" {
			t.Errorf("state = %q, want delivered", got.state)
		}
	})
}

func TestAnOutcomeThatIsNotRecordedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *rig
		n := 0
		r = newRig(t, map[string]behaviour{"ops": func(context.Context, alert.Delivery) error {
			n++
			r.queue.setAway(n == 1) // the first time, the queue dies under the try
			return nil
		}})
		defer r.start(t)()
		r.queue.put("d1", "ops")
		time.Sleep(recordTimeout + time.Second)
		r.queue.setAway(false)
		time.Sleep(leaseFor + time.Second)
		synctest.Wait()
		if got := r.queue.get(t, "d1"); got.state != "delivered" || n != 2 {
			t.Errorf("state %q after %d tries, want delivered by the second", got.state, n)
		}
	})
}

func TestAnIncidentIsToldInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		fails := 2
		r := newRig(t, map[string]behaviour{"ops": func(_ context.Context, d alert.Delivery) error {
			if fails--; fails >= 0 {
				return errors.New("connection refused")
			}
			told = append(told, alert.State(d.State))
			return nil
		}})
		defer r.start(t)()
		r.queue.putOf("d1", "ops", "inc", controlv1.IncidentState_INCIDENT_STATE_FIRING)
		synctest.Wait()
		time.Sleep(time.Millisecond)
		r.queue.putOf("d2", "ops", "inc", controlv1.IncidentState_INCIDENT_STATE_RESOLVED)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !slices.Equal(told, []string{"firing", "resolved"}) {
			t.Errorf("told %v", told)
		}
	})
}
