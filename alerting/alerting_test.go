package alerting

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/plug"
	"github.com/vigil-ml/vigil/internal/testkit"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// behaviour is how a receiver of the test answers.
type behaviour func(ctx context.Context, d alert.Delivery) error

func (b behaviour) Notify(ctx context.Context, d alert.Delivery) error { return b(ctx, d) }

// rig is an Alerting with receivers that behave as told.
type rig struct {
	*Alerting
	queue    *memory
	registry *prometheus.Registry
	spans    *tracetest.SpanRecorder
}

func newRig(t *testing.T, receivers map[string]behaviour) *rig {
	t.Helper()
	return newRigWith(t, receivers, nil, nil)
}

// newRigWith gives receivers further lines of configuration.
func newRigWith(t *testing.T, receivers map[string]behaviour, more map[string]string, trouble Trouble) *rig {
	t.Helper()
	r := &rig{queue: newMemory(), registry: prometheus.NewRegistry(), spans: tracetest.NewSpanRecorder()}
	var list strings.Builder
	var kinds catalog
	for name, b := range receivers {
		fmt.Fprintf(&list, "- name: %s\n  kind_%s: {}\n", name, name)
		if line := more[name]; line != "" {
			fmt.Fprintf(&list, "  %s\n", line)
		}
		kinds = append(kinds, plug.Of("kind_"+name, struct{}{}, func(struct{}, notify.Deps) (notify.Notifier, error) { return b, nil }))
	}
	config := Defaults()
	if err := conf.Decode("t.yaml", []byte("receivers:\n"+list.String()), &config); err != nil {
		t.Fatal(err)
	}
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r.spans)).Tracer("test")
	a, err := assemble(config, Deps{Queue: r.queue, Log: testkit.Logger(t), Metrics: r.registry, Tracer: tracer, Trouble: trouble}, kinds)
	if err != nil {
		t.Fatal(err)
	}
	r.Alerting = a
	return r
}

// start runs it and gives what stops it and waits for its end.
func (r *rig) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func (r *rig) count(receiver, result string) float64 {
	return testutil.ToFloat64(r.metrics.notifications.WithLabelValues(receiver, result))
}

// tries is a behaviour that notes when it was tried and answers in order, the
// last answer for good.
type tries struct {
	mu      sync.Mutex
	began   time.Time
	at      []time.Duration
	answers []error
}

func (s *tries) notify(context.Context, alert.Delivery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.at) == 0 {
		s.began = time.Now()
	}
	s.at = append(s.at, time.Since(s.began))
	return s.answers[min(len(s.at), len(s.answers))-1]
}

// times is when it was tried, since the first time.
func (s *tries) times() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at)
}

func TestDeliversAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tries{answers: []error{nil}}
		r := newRig(t, map[string]behaviour{"ops": s.notify})
		defer r.start(t)()
		synctest.Wait() // it sleeps until its poll
		r.queue.put("d1", "ops")
		synctest.Wait() // no time passes here
		if got := r.queue.get(t, "d1"); got.state != "delivered" || !got.at.Equal(got.Created) {
			t.Errorf("delivery = %q after %v, want delivered without a wait", got.state, got.at.Sub(got.Created))
		}
		if r.count("ops", resultDelivered) != 1 || testutil.CollectAndCount(r.metrics.seconds) != 1 {
			t.Error("the delivery is not counted")
		}
	})
}

func TestBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("connection refused")
		s := &tries{answers: []error{away, away, away, away, away, away, away, away, nil}}
		r := newRig(t, map[string]behaviour{"ops": s.notify})
		stop := r.start(t)
		r.queue.put("d1", "ops")
		time.Sleep(10 * time.Minute)
		stop()
		got := r.queue.get(t, "d1")
		if got.state != "delivered" || len(s.times()) != 9 || got.cause != "connection refused" {
			t.Fatalf("state %q after %d tries, cause %q", got.state, len(s.times()), got.cause)
		}
		for i, wait := range got.retries {
			full := min(time.Minute, time.Second<<i)
			if i+1 >= breakAfter { // the breaker is open
				full = max(full, breakFor+time.Millisecond)
			}
			if wait > full || wait < max(time.Second, full*3/4) {
				t.Errorf("wait %d is %v, want between 3/4 and all of %v", i, wait, full)
			}
			if gap := s.times()[i+1] - s.times()[i]; gap < wait || gap > wait+pollEvery {
				t.Errorf("try %d came %v after the one before, want %v to %v", i+1, gap, wait, wait+pollEvery)
			}
		}
		if r.count("ops", resultRetried) != 8 {
			t.Errorf("retries counted: %v, want 8", r.count("ops", resultRetried))
		}
	})
}

func TestBackoffStaysInItsBounds(t *testing.T) {
	for tries := -1; tries < 100; tries++ {
		for _, chance := range []float64{0, 0.5, 0.999} {
			if wait := backoff(tries, chance); wait < firstWait || wait > maxWait {
				t.Errorf("backoff(%d, %v) = %v", tries, chance, wait)
			}
		}
	}
	if backoff(3, 0) != 8*time.Second || backoff(50, 0) != time.Minute || backoff(50, 1) != 45*time.Second {
		t.Errorf("backoff = %v, %v, %v", backoff(3, 0), backoff(50, 0), backoff(50, 1))
	}
}

func TestAThrottledReceiverIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tries{answers: []error{notify.Throttled(errors.New("slow down"), 3*time.Second), nil}}
		r := newRig(t, map[string]behaviour{"ops": s.notify})
		defer r.start(t)()
		r.queue.put("d1", "ops")
		synctest.Wait()
		r.queue.put("d2", "ops") // meanwhile
		time.Sleep(2900 * time.Millisecond)
		synctest.Wait()
		if at := s.times(); len(at) != 1 {
			t.Errorf("tried at %v although it asked for 3s", at)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if at := s.times(); r.queue.open() != 0 || at[1] < 3*time.Second || at[1] > 4*time.Second {
			t.Errorf("tried at %v, %d open; want again within a second after 3s", at, r.queue.open())
		}
	})
}

func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := &tries{answers: []error{notify.Permanent(errors.New("no such channel"))}}
		away := &tries{answers: []error{errors.New("connection refused")}}
		r := newRig(t, map[string]behaviour{"refused": refused.notify, "away": away.notify})
		r.config.MaxAge = time.Hour
		defer r.start(t)()
		r.queue.put("d1", "refused")
		r.queue.put("d2", "away")
		r.queue.put("d3", "gone")
		time.Sleep(time.Hour - time.Minute)
		if got := r.queue.get(t, "d2"); got.state != "" {
			t.Errorf("a receiver that is away was given up after %v", got.at.Sub(got.Created))
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		for id, want := range map[string]string{
			"d1": "no such channel",
			"d2": "given up after 1h0m0s: connection refused",
			"d3": `receiver "gone" is not configured any more`,
		} {
			if got := r.queue.get(t, id); got.state != "failed" || got.cause != want {
				t.Errorf("%s: %q, %q; want failed, %q", id, got.state, got.cause, want)
			}
		}
		if n := len(refused.times()); n != 1 || r.count("refused", resultFailed) != 1 {
			t.Errorf("the refusing receiver was tried %d times", n)
		}
	})
}

func TestEachTryHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took []time.Duration
		r := newRig(t, map[string]behaviour{"hangs": func(ctx context.Context, _ alert.Delivery) error {
			began := time.Now()
			<-ctx.Done()
			took = append(took, time.Since(began))
			return ctx.Err()
		}})
		stop := r.start(t)
		r.queue.put("d1", "hangs")
		time.Sleep(15 * time.Second)
		stop()
		if len(took) == 0 || took[0] != 10*time.Second {
			t.Errorf("the tries took %v, want 10s for the first", took)
		}
		if got := r.queue.get(t, "d1"); got.state != "" || got.leased.After(time.Now()) {
			t.Errorf("after a stop: %q, leased until %v; want due at once", got.state, got.leased)
		}
	})
}

func TestTheTraceGoesOn(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	inside := make(chan trace.SpanContext, 2)
	r := newRig(t, map[string]behaviour{"ops": func(ctx context.Context, _ alert.Delivery) error {
		inside <- trace.SpanContextFromContext(ctx)
		return errors.New("connection refused")
	}})
	traced := alert.Delivery{ID: "d", Receiver: "ops", Traceparent: parent, Incident: &controlv1.Incident{IncidentId: "inc"}}
	for _, d := range []alert.Delivery{traced, {ID: "e", Receiver: "ops", Incident: traced.Incident}} {
		if err := r.try(t.Context(), r.receivers["ops"], d); err == nil {
			t.Fatal("the error is lost")
		}
	}
	spans := r.spans.Ended()
	if len(spans) != 1 || spans[0].Name() != "vigil.notify" || spans[0].Status().Description != "connection refused" {
		t.Fatalf("spans = %v, want one that failed, and none for the delivery without a trace", spans)
	}
	if got := spans[0].Parent().TraceID().String(); got != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace = %s", got)
	}
	if got := <-inside; got.SpanID() != spans[0].SpanContext().SpanID() {
		t.Errorf("the notifier is in span %v, want %v", got, spans[0].SpanContext())
	}
}

// BenchmarkDeliver measures what alerting itself adds to a notification.
func BenchmarkDeliver(b *testing.B) {
	queue := newMemory()
	done := make(chan struct{}, 1)
	kinds := catalog{plug.Of("log", struct{}{}, func(struct{}, notify.Deps) (notify.Notifier, error) {
		return behaviour(func(context.Context, alert.Delivery) error { done <- struct{}{}; return nil }), nil
	})}
	a, err := assemble(Defaults(), Deps{
		Queue: queue, Log: testkit.Logger(b), Metrics: prometheus.NewRegistry(), Tracer: noop.NewTracerProvider().Tracer(""),
	}, kinds)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	for i := 0; b.Loop(); i++ {
		queue.mu.Lock()
		clear(queue.rows) // the fake reads all rows at each lease
		queue.mu.Unlock()
		queue.put(fmt.Sprint(i), "log")
		<-done
	}
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}
