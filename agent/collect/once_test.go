package collect

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vigil-ml/vigil/internal/metric"
)

func TestOnceCallsTwiceAndLeavesBehindWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		rate := &collector{}
		rate.collect = func(_ context.Context, emit func(metric.Sample)) (Status, error) {
			if rate.calls.Load() == 1 {
				emit(metric.Sample{Def: metric.HostMemoryTotal, Value: 9}) // only the first time
			} else {
				emit(load(2))
			}
			return Ok, nil
		}
		stuck := &collector{collect: func(context.Context, func(metric.Sample)) (Status, error) {
			<-release
			return Ok, nil
		}}
		none := &collector{collect: func(context.Context, func(metric.Sample)) (Status, error) { return Unsupported, nil }}
		wrong := &collector{collect: func(context.Context, func(metric.Sample)) (Status, error) { panic("no fan") }}
		var sources []Source
		for name, c := range map[string]*collector{"rate": rate, "stuck": stuck, "none": none, "wrong": wrong} {
			sources = append(sources, Source{Name: name, Collector: c, Timeout: 2 * time.Second})
		}
		began := time.Now()
		results := map[string]Result{}
		for _, r := range Once(t.Context(), sources, time.Second) {
			results[r.Name] = r
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %v", took)
		}
		for name, want := range map[string]Status{"rate": Ok, "stuck": Stuck, "none": Unsupported, "wrong": Unknown} {
			if got := results[name].Status; got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
		if got := results["rate"].Samples; len(got) != 2 || rate.calls.Load() != 2 || !rate.closed {
			t.Errorf("%d calls gave %v; closed %v", rate.calls.Load(), got, rate.closed)
		}
		if stuck.closed || none.calls.Load() != 1 || results["wrong"].Err == nil {
			t.Error("what hangs is not closed, what is not there is called once, and a panic is an error")
		}
		close(release)
		synctest.Wait()
	})
}

func TestOnceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &collector{collect: func(ctx context.Context, _ func(metric.Sample)) (Status, error) {
			<-ctx.Done()
			return Ok, ctx.Err()
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got := Once(ctx, []Source{{Name: "slow", Collector: slow, Timeout: time.Hour}}, time.Second)[0]
		if got.Status != Unknown || !errors.Is(got.Err, context.DeadlineExceeded) {
			t.Errorf("result %+v", got)
		}
	})
}
