package collect

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

func TestReplacedSourcesAreClosedAndOthersRun(t *testing.T) {
	synctest.Test(t, replacedAreClosed)
}

func replacedAreClosed(t *testing.T) {
	release := make(chan struct{})
	old := emits(1)
	stuck := &collector{collect: func(context.Context, func(metric.Sample)) (Status, error) {
		<-release
		return Ok, nil
	}}
	runHere(t, map[string]*collector{"old": old, "stuck": stuck}, func(b *bench) {
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if err := b.Replace([]Source{{Name: "a"}}); !fault.Is(err, fault.Invalid) {
			t.Errorf("no interval: %v", err)
		}
		before := old.calls.Load()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if old.calls.Load() == before || old.closed {
			t.Error("a mistake has stopped what was there")
		}
		fresh := emits(2)
		if err := b.Replace([]Source{{Name: "fresh", Collector: fresh, Interval: time.Second}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		calls := old.calls.Load()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if !old.closed || old.calls.Load() != calls || stuck.closed {
			t.Errorf("old: closed %v, %d calls since; stuck closed: %v", old.closed, old.calls.Load()-calls, stuck.closed)
		}
		if diff := cmp.Diff(map[string]Status{"fresh": Ok}, b.Statuses()); diff != "" || fresh.calls.Load() < 9 {
			t.Errorf("%d calls; statuses %s", fresh.calls.Load(), diff)
		}
		if n := testutil.CollectAndCount(b.up); n != 4 {
			t.Errorf("%d series of statuses; those of old collectors must go", n)
		}
		close(release)
	})
}
