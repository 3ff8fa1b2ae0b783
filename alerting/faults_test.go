package alerting

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
)

// outage is a provider that fails in one way for a time, and then works.
func outage(lasts time.Duration, fail func(context.Context) error) behaviour {
	var began time.Time
	var mu sync.Mutex
	return func(ctx context.Context, _ alert.Delivery) error {
		mu.Lock()
		if began.IsZero() {
			began = time.Now()
		}
		over := time.Since(began) >= lasts
		mu.Unlock()
		if over {
			return nil
		}
		return fail(ctx)
	}
}

// TestProviderFaults is the table of docs/alerting-receivers.md, in virtual
// time: when a notification arrives at a provider that misbehaves, when its
// fallback is told, and that the receiver beside it notices nothing.
func TestProviderFaults(t *testing.T) {
	plain := func(text string) func(context.Context) error {
		return func(context.Context) error { return errors.New(text) }
	}
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	never := time.Duration(-1)
	for name, test := range map[string]struct {
		provider behaviour
		arrives  time.Duration // never: it is given up
		fallback time.Duration // never: it is not told
	}{
		"429, Retry-After: 3": {outage(3*time.Second, func(context.Context) error {
			return notify.Throttled(errors.New("429"), 3*time.Second)
		}), 3 * time.Second, never},
		"429, Retry-After: a date in 20 s": {outage(20*time.Second, func(context.Context) error {
			return notify.Throttled(errors.New("429"), 20*time.Second)
		}), 20 * time.Second, never},
		"500 once":      {outage(time.Millisecond, plain("500")), time.Second, never},
		"500 for 40 s":  {outage(40*time.Second, plain("500")), 45 * time.Second, 15 * time.Second},
		"resets, 10 s":  {outage(10*time.Second, plain("connection reset by peer")), 15 * time.Second, never},
		"garbage, 10 s": {outage(10*time.Second, plain("malformed HTTP response")), 15 * time.Second, never},
		"hangs, 2 min":  {outage(2*time.Minute, hang), 137 * time.Second, 65 * time.Second},
		"refused": {outage(time.Hour, func(context.Context) error {
			return notify.Permanent(errors.New("404"))
		}), never, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				works := func(context.Context, alert.Delivery) error { return nil }
				r := newRigWith(t, map[string]behaviour{"page": test.provider, "mail": works, "beside": works},
					map[string]string{"page": "fallback: mail"}, nil)
				defer r.start(t)()
				r.queue.put("d", "page")
				for i := range 200 {
					time.Sleep(time.Second)
					id := fmt.Sprint("b", i)
					r.queue.put(id, "beside")
					synctest.Wait()
					if got := r.queue.get(t, id); got.state != "delivered" || !got.at.Equal(got.Created) {
						t.Fatalf("the receiver beside it waited: %s is %q", id, got.state)
					}
				}
				// A quarter of a backoff is chance, which adds up over the tries.
				within(t, "arrival", r, "d", "delivered", test.arrives)
				within(t, "fallback", r, "for:d", "delivered", test.fallback)
			})
		})
	}
}

// within checks when a delivery got to a state: at most as late as the table
// says plus a second, and not before three quarters of it.
func within(t *testing.T, what string, r *rig, id, state string, want time.Duration) {
	t.Helper()
	r.queue.mu.Lock()
	defer r.queue.mu.Unlock()
	got, ok := r.queue.rows[id]
	if want < 0 {
		if ok && got.state == state {
			t.Errorf("%s: %s is %s, want never", what, id, state)
		}
		return
	}
	if !ok || got.state != state {
		t.Errorf("%s: %s did not get %s", what, id, state)
		return
	}
	if after := got.at.Sub(r.queue.rows["d"].Created); after < want*3/4 || after > want+time.Second {
		t.Errorf("%s: after %v, want %v", what, after, want)
	}
}

func TestEveryOneThatWaitsIsToldToTheFallbackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		works := func(context.Context, alert.Delivery) error { return nil }
		r := newRigWith(t, map[string]behaviour{
			"page": outage(10*time.Minute, func(context.Context) error { return errors.New("500") }), "mail": works,
		}, map[string]string{"page": "fallback: mail"}, nil)
		defer r.start(t)()
		for i := range 300 {
			r.queue.put(fmt.Sprint("d", i), "page")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for i := range 300 {
			if got := r.queue.get(t, fmt.Sprint("for:d", i)); got.state != "delivered" {
				t.Errorf("stand-in of d%d is %q", i, got.state)
			}
		}
		if n := r.count("mail", resultDelivered); n != 300 {
			t.Errorf("the fallback was told %v times, want 300", n)
		}
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if r.queue.open() != 0 || r.count("mail", resultDelivered) != 300 {
			t.Errorf("%d are open, the fallback was told %v times", r.queue.open(), r.count("mail", resultDelivered))
		}
	})
}

func TestFallbacksDoNotTellEachOtherForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuses := func(context.Context, alert.Delivery) error { return notify.Permanent(errors.New("410")) }
		r := newRigWith(t, map[string]behaviour{"a": refuses, "b": refuses},
			map[string]string{"a": "fallback: b", "b": "fallback: a"}, nil)
		defer r.start(t)()
		r.queue.put("d", "a")
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(r.queue.rows) != 2 || r.queue.open() != 0 {
			t.Errorf("%d deliveries, %d open; want the first and its stand-in, both failed", len(r.queue.rows), r.queue.open())
		}
	})
}

func TestTheProvidersLimitHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tries{answers: []error{nil}}
		r := newRigWith(t, map[string]behaviour{"ops": s.notify}, map[string]string{"ops": "limit: {per_minute: 60, burst: 3}"}, nil)
		defer r.start(t)()
		for i := range 40 {
			r.queue.put(fmt.Sprint("d", i), "ops")
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(s.times()); n < 12 || n > 14 {
			t.Errorf("%d in ten seconds, want the burst of 3 and one a second", n)
		}
		time.Sleep(40 * time.Second)
		synctest.Wait()
		if n := len(s.times()); n != 40 || r.queue.open() != 0 {
			t.Errorf("%d of 40 were sent, %d are open", n, r.queue.open())
		}
	})
}

// told is a Trouble that notes what it is told.
type told struct {
	mu   sync.Mutex
	said []string
	fail int
}

func (p *told) say(text string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail--; p.fail >= 0 {
		return errAway
	}
	p.said = append(p.said, text)
	return nil
}

func (p *told) ReceiverFailing(_ context.Context, receiver, cause string, since time.Time) error {
	return p.say(fmt.Sprintf("%s fails: %s, since %v", receiver, cause, time.Since(since).Round(time.Second)))
}

func (p *told) ReceiverWell(_ context.Context, receiver string, _ time.Time) error {
	return p.say(receiver + " is well")
}

func TestABrokenReceiverIsTroubleOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := outage(2*time.Minute, func(context.Context) error { return errors.New("503") })
		refuses := outage(time.Minute, func(context.Context) error { return notify.Permanent(errors.New("404")) })
		picky := func(_ context.Context, d alert.Delivery) error {
			if d.ID == "poison" {
				return notify.Permanent(errors.New("400"))
			}
			return nil
		}
		trouble := &told{fail: 1}
		r := newRigWith(t, map[string]behaviour{"away": away, "refuses": refuses, "picky": picky}, nil, trouble)
		defer r.start(t)()
		r.queue.put("poison", "picky")
		for i := range 40 {
			for name := range r.receivers {
				r.queue.put(fmt.Sprint(name, i), name)
			}
			time.Sleep(5 * time.Second)
		}
		synctest.Wait()
		trouble.mu.Lock()
		defer trouble.mu.Unlock()
		counts := map[string]int{}
		for _, text := range trouble.said {
			counts[text[:6]]++
		}
		if diff := cmp.Diff(map[string]int{"away f": 1, "away i": 1, "refuse": 2}, counts); diff != "" {
			t.Errorf("-want +got:\n%s\n%q", diff, trouble.said)
		}
	})
}

func TestOutcomesShareATransaction(t *testing.T) {
	r := newRig(t, map[string]behaviour{"ops": func(context.Context, alert.Delivery) error { return nil }})
	for i := range 300 {
		id := fmt.Sprint("d", i)
		r.queue.put(id, "ops")
		r.outcome(r.receivers["ops"], alert.Delivery{ID: id, Receiver: "ops"}, nil)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop() // it writes what there is, and ends
	if err := r.record(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{outcomesAtOnce, 300 - outcomesAtOnce}, r.queue.batches); diff != "" || r.queue.open() != 0 {
		t.Errorf("%d are open; batches -want +got:\n%s", r.queue.open(), diff)
	}
}
