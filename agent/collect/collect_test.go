package collect

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/agent/page"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector is a collector made of a function.
type collector struct {
	collect func(ctx context.Context, emit func(metric.Sample)) (Status, error)
	calls   atomic.Int64
	closed  bool
}

func (c *collector) Collect(ctx context.Context, emit func(metric.Sample)) (Status, error) {
	c.calls.Add(1)
	return c.collect(ctx, emit)
}

func (c *collector) Close() error {
	c.closed = true
	return nil
}

func load(value float64) metric.Sample { return metric.Sample{Def: metric.HostLoad1, Value: value} }

func emits(values ...float64) *collector {
	return &collector{collect: func(_ context.Context, emit func(metric.Sample)) (Status, error) {
		for _, v := range values {
			emit(load(v))
		}
		return Ok, nil
	}}
}

// bench runs collectors inside a synctest bubble.
type bench struct {
	*Runner
	log bytes.Buffer
	reg *prometheus.Registry

	mu      sync.Mutex
	samples []metric.Sample
	fail    error
}

func (b *bench) record(_ context.Context, samples []metric.Sample) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.samples = append(b.samples, samples...)
	return b.fail
}

func (b *bench) values() (values []float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.samples {
		values = append(values, s.Value)
	}
	return values
}

func (b *bench) first() metric.Sample {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.samples[0]
}

// run runs collectors with an interval of a second while the test's body runs.
func run(t *testing.T, collectors map[string]*collector, body func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { runHere(t, collectors, body) })
}

// runHere is run for a caller that is in a bubble, where it has made channels.
func runHere(t *testing.T, collectors map[string]*collector, body func(*bench)) {
	t.Helper()
	b := &bench{reg: prometheus.NewRegistry()}
	var sources []Source
	for name, c := range collectors {
		sources = append(sources, Source{Name: name, Collector: c, Interval: time.Second, Timeout: 300 * time.Millisecond})
	}
	var err error
	b.Runner, err = NewRunner(sources, RunnerDeps{
		Record: b.record, Log: slog.New(slog.NewTextHandler(&b.log, nil)), Metrics: b.reg, Clock: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error)
	go func() { stopped <- b.Run(ctx) }()
	synctest.Wait()
	body(b)
	cancel()
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestFirstCollectionIsAtOnceAndTheNextOnesAtTheInterval(t *testing.T) {
	c := emits(1.5)
	run(t, map[string]*collector{"host": c}, func(b *bench) {
		if c.calls.Load() != 1 || !cmp.Equal(b.values(), []float64{1.5}) {
			t.Errorf("%d calls, samples %v", c.calls.Load(), b.values())
		}
		if at := b.first().Time; !at.Equal(time.Now()) {
			t.Errorf("the sample has the time %v, now is %v", at, time.Now())
		}
		time.Sleep(100 * time.Second)
		synctest.Wait()
		if c.calls.Load() < 91 || c.calls.Load() > 112 {
			t.Errorf("%d calls in 100 seconds", c.calls.Load())
		}
		if diff := cmp.Diff(map[string]Status{"host": Ok}, b.Statuses()); diff != "" {
			t.Error(diff)
		}
	})
	if !c.closed {
		t.Error("the collector was not closed")
	}
}

func TestCollectorsDoNotMeasureInStep(t *testing.T) {
	collectors := map[string]*collector{}
	calls := make([][]time.Time, 20)
	for i := range calls {
		c := &collector{collect: func(context.Context, func(metric.Sample)) (Status, error) {
			calls[i] = append(calls[i], time.Now())
			return Ok, nil
		}}
		collectors[strconv.Itoa(i)] = c
	}
	var began time.Time
	run(t, collectors, func(*bench) {
		began = time.Now()
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
	})
	seconds := map[time.Time]bool{}
	for i, times := range calls {
		if len(times) < 2 || !times[0].Equal(began) || times[1].Before(began.Add(time.Second/2)) || times[1].After(began.Add(time.Second)) {
			t.Fatalf("collector %d was called at %v; it began at %v", i, times, began)
		}
		seconds[times[1]] = true
	}
	if len(seconds) < len(calls)/2 {
		t.Errorf("the second calls of %d collectors came at %d times", len(calls), len(seconds))
	}
}

// prompt is a collector that is told when there is something.
type prompt struct {
	*collector
	news chan struct{}
}

func (p prompt) Await(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-p.news:
	}
}

func TestPromptCollectorIsCalledWhenThereIsSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := prompt{emits(1), make(chan struct{})}
		r, err := NewRunner([]Source{{Name: "kernel", Collector: p, Interval: time.Minute}}, RunnerDeps{
			Record: func(context.Context, []metric.Sample) error { return nil },
			Log:    slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Clock: time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error)
		go func() { stopped <- r.Run(ctx) }()
		time.Sleep(10 * time.Second)
		p.news <- struct{}{}
		synctest.Wait()
		if n := p.calls.Load(); n != 2 {
			t.Errorf("%d calls, want one at the start and one at once when there is something", n)
		}
		for range 3 { // a flood is one call a second
			p.news <- struct{}{}
			time.Sleep(promptGap)
		}
		synctest.Wait()
		if n := p.calls.Load(); n != 5 {
			t.Errorf("%d calls after three more in three seconds, want 5", n)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if n := p.calls.Load(); n < 7 || n > 9 {
			t.Errorf("%d calls three minutes later, want one for each", n)
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

func TestTimeOfTheCollectorIsKept(t *testing.T) {
	at := time.Unix(5, 0)
	c := &collector{collect: func(_ context.Context, emit func(metric.Sample)) (Status, error) {
		emit(metric.Sample{Def: metric.HostLoad1, Time: at})
		return Ok, nil
	}}
	run(t, map[string]*collector{"host": c}, func(b *bench) {
		if got := b.first().Time; !got.Equal(at) {
			t.Errorf("time %v, want %v", got, at)
		}
	})
}

func TestStuckCollectorIsLeftAloneAndOthersGoOn(t *testing.T) {
	synctest.Test(t, stuckIsLeftAlone)
}

func stuckIsLeftAlone(t *testing.T) {
	release := make(chan struct{})
	stuck := &collector{}
	stuck.collect = func(_ context.Context, emit func(metric.Sample)) (Status, error) {
		emit(load(1))
		if stuck.calls.Load() == 1 {
			<-release
			emit(load(99))
		}
		return Ok, nil
	}
	other := emits()
	runHere(t, map[string]*collector{"stuck": stuck, "other": other}, func(b *bench) {
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if stuck.calls.Load() != 1 || other.calls.Load() < 9 {
			t.Errorf("the stuck one was called %d times, the other %d times", stuck.calls.Load(), other.calls.Load())
		}
		want := map[string]Status{"stuck": Stuck, "other": Ok}
		if diff := cmp.Diff(want, b.Statuses()); diff != "" {
			t.Error(diff)
		}
		for status, want := range map[Status]float64{Stuck: 1, Ok: 0} {
			if got := testutil.ToFloat64(b.up.WithLabelValues("stuck", string(status))); got != want {
				t.Errorf("gauge of %s is %v, want %v", status, got, want)
			}
		}
		if got := b.values(); !cmp.Equal(got, []float64{1}) {
			t.Errorf("samples %v, want what came before it got stuck", got)
		}
		if n := strings.Count(b.log.String(), "status=stuck"); n != 1 {
			t.Errorf("stuck stands %d times in the log:\n%s", n, &b.log)
		}
		close(release)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if stuck.calls.Load() < 2 || b.Statuses()["stuck"] != Ok {
			t.Errorf("after its return: %d calls, status %s", stuck.calls.Load(), b.Statuses()["stuck"])
		}
		if got := b.values(); got[1] != 1 {
			t.Errorf("samples %v: what a stuck call emits late is dropped", got)
		}
	})
}

func TestRunEndsAlthoughACallIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		stuck := &collector{collect: func(context.Context, func(metric.Sample)) (Status, error) {
			<-release
			return Ok, nil
		}}
		var log bytes.Buffer
		r, err := NewRunner([]Source{{Name: "s", Collector: stuck, Interval: time.Second}}, RunnerDeps{
			Log: slog.New(slog.NewTextHandler(&log, nil)), Metrics: prometheus.NewRegistry(), Clock: time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := r.Run(ctx); err != nil || stuck.closed {
			t.Errorf("Run = %v, closed %v", err, stuck.closed)
		}
		if !strings.Contains(log.String(), "left behind") {
			t.Errorf("log:\n%s", &log)
		}
		close(release)
	})
}

func TestOutcomes(t *testing.T) {
	for name, tc := range map[string]struct {
		collect func(ctx context.Context, emit func(metric.Sample)) (Status, error)
		want    Status
		says    string
	}{
		"ok":          {func(context.Context, func(metric.Sample)) (Status, error) { return Ok, nil }, Ok, ""},
		"unsupported": {func(context.Context, func(metric.Sample)) (Status, error) { return Unsupported, nil }, Unsupported, "status=unsupported"},
		"error":       {func(context.Context, func(metric.Sample)) (Status, error) { return Ok, errors.New("no fan") }, Unknown, "no fan"},
		"panic":       {func(context.Context, func(metric.Sample)) (Status, error) { panic("no fan") }, Unknown, "panic: no fan"},
		"nothing":     {func(context.Context, func(metric.Sample)) (Status, error) { return "", nil }, Unknown, "does not say"},
		"late but well-behaved": {func(ctx context.Context, _ func(metric.Sample)) (Status, error) {
			<-ctx.Done()
			return Unknown, ctx.Err()
		}, Unknown, "deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, map[string]*collector{"c": {collect: tc.collect}}, func(b *bench) {
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if got := b.Statuses()["c"]; got != tc.want {
					t.Errorf("status %s, want %s", got, tc.want)
				}
				if n := strings.Count(b.log.String(), "level="); (tc.says == "") != (n == 0) || n > 1 || !strings.Contains(b.log.String(), tc.says) {
					t.Errorf("want one line that says %q; log:\n%s", tc.says, &b.log)
				}
			})
		})
	}
}

func TestUnsupportedIsAskedAgainSeldom(t *testing.T) {
	c := &collector{collect: func(context.Context, func(metric.Sample)) (Status, error) { return Unsupported, nil }}
	run(t, map[string]*collector{"nvml": c}, func(*bench) {
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if c.calls.Load() < 9 || c.calls.Load() > 13 {
			t.Errorf("%d calls in ten minutes", c.calls.Load())
		}
	})
}

func TestFailureToRecordIsLogged(t *testing.T) {
	run(t, map[string]*collector{"c": emits(1)}, func(b *bench) {
		b.mu.Lock()
		b.fail = fault.New(fault.Exhausted, "disk is full")
		b.mu.Unlock()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := strings.Count(b.log.String(), "disk is full"); n != 1 {
			t.Errorf("log:\n%s", &b.log)
		}
	})
}

func TestShow(t *testing.T) { synctest.Test(t, shows) }

func shows(t *testing.T) {
	const head = "# HELP vigil_gpu_power_watts Power that the GPU draws.\n# TYPE vigil_gpu_power_watts gauge\n"
	gpu := func(index string, watts float64) metric.Sample {
		return metric.Sample{Def: metric.GPUPower, Labels: []string{index}, Value: watts}
	}
	release := make(chan struct{})
	c := &collector{}
	c.collect = func(_ context.Context, emit func(metric.Sample)) (Status, error) {
		emit(gpu("0", 100))
		emit(gpu("0", 101))
		emit(gpu("1", 0))
		emit(metric.Sample{Def: metric.GPUPower, Labels: []string{"too", "many"}})
		if c.calls.Load() > 1 {
			<-release
		}
		return Ok, nil
	}
	runHere(t, map[string]*collector{"nvml": c}, func(b *bench) {
		shown := func() string {
			p := page.New(0, 0)
			var text strings.Builder
			b.Show(p)
			if _, err := p.WriteTo(&text); err != nil {
				t.Error(err)
			}
			return text.String()
		}
		want := head + "vigil_gpu_power_watts{gpu=\"0\"} 100\nvigil_gpu_power_watts{gpu=\"1\"} 0\n"
		if diff := cmp.Diff(want, shown()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(10 * time.Second) // the second call is stuck
		if got := shown(); got != "" {
			t.Errorf("old samples are still shown: %s", got)
		}
		close(release)
		synctest.Wait()
	})
}

func TestNewRunnerRefuses(t *testing.T) {
	for name, sources := range map[string][]Source{
		"two of one name":  {{Name: "a", Interval: 1}, {Name: "a", Interval: 1}},
		"no interval":      {{Name: "a"}},
		"negative timeout": {{Name: "a", Interval: 1, Timeout: -1}},
	} {
		if _, err := NewRunner(sources, RunnerDeps{Metrics: prometheus.NewRegistry()}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want an invalid fault", name, err)
		}
	}
}
