package life

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestServicesStopBeforeFoundations(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var order []string
	err := Run(ctx, func(_ context.Context, services, foundations *Group) error {
		foundations.Go("store", func(ctx context.Context) error {
			err := wait(ctx)
			order = append(order, "store")
			return err
		})
		services.Go("api", func(ctx context.Context) error {
			err := wait(ctx)
			order = append(order, "api")
			return err
		})
		cancel()
		return nil
	})
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	if got := strings.Join(order, " "); got != "api store" {
		t.Errorf("stopped in the order %q, want api before store", got)
	}
}

func TestFailureStopsEverything(t *testing.T) {
	boom := errors.New("boom")
	for name, setup := range map[string]func(context.Context, *Group, *Group) error{
		"service": func(_ context.Context, s, f *Group) error {
			f.Go("store", wait)
			s.Go("api", func(context.Context) error { return boom })
			return nil
		},
		"foundation": func(_ context.Context, s, f *Group) error {
			f.Go("store", func(context.Context) error { return boom })
			s.Go("api", wait)
			return nil
		},
		"setup": func(_ context.Context, s, f *Group) error {
			f.Go("store", wait)
			s.Go("api", wait)
			return boom
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Run(context.Background(), setup); !errors.Is(err, boom) {
				t.Errorf("Run = %v, want %v", err, boom)
			}
		})
	}
}

func TestPanicBecomesAnErrorThatNamesTheTask(t *testing.T) {
	g := NewGroup(context.Background())
	g.Go("collector", func(context.Context) error { panic("no driver") })
	err := g.Wait()
	if err == nil || !strings.Contains(err.Error(), "run collector: panic: no driver") {
		t.Errorf("Wait = %v", err)
	}
}

func TestAllEndsWithTheFirst(t *testing.T) {
	err := All(context.Background(),
		Task{"forever", wait},
		Task{"once", func(context.Context) error { return nil }},
	)
	if err != nil {
		t.Errorf("All = %v, want nil", err)
	}
}

func TestWaitsEndTogether(t *testing.T) {
	for _, tc := range []struct{ now, wait, want time.Duration }{
		{0, 10 * time.Second, 10 * time.Second},
		{3400 * time.Millisecond, 4 * time.Second, 3600 * time.Millisecond},
		{3600 * time.Millisecond, 4 * time.Second, 4400 * time.Millisecond},
		{15 * time.Second, 11 * time.Second, 10 * time.Second},
		{15 * time.Second, 5 * time.Second, 5 * time.Second},
		{12400 * time.Millisecond, 5 * time.Second, 2600 * time.Millisecond},
		{12600 * time.Millisecond, 5 * time.Second, 7400 * time.Millisecond},
		{13 * time.Second, time.Minute, 62 * time.Second},
		{2010 * time.Millisecond, 920 * time.Millisecond, 990 * time.Millisecond},
		{2010 * time.Millisecond, 1080 * time.Millisecond, 990 * time.Millisecond},
		{2580 * time.Millisecond, 900 * time.Millisecond, 1420 * time.Millisecond}, // not in 0.42 s
		{2010 * time.Millisecond, 500 * time.Millisecond, 500 * time.Millisecond},
	} {
		if got := inStep(tc.now, tc.wait); got != tc.want {
			t.Errorf("at %v a wait of %v takes %v, want %v", tc.now, tc.wait, got, tc.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if InStep(ctx, time.Hour) {
		t.Error("the wait was cut short and InStep says that it was over")
	}
}

func TestSleep(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if !Sleep(ctx, time.Nanosecond) {
		t.Error("the wait was over and Sleep says that it was cut short")
	}
	cancel()
	if Sleep(ctx, time.Hour) {
		t.Error("the wait was cut short and Sleep says that it was over")
	}
}
