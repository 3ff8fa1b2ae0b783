package uplink

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestTheServersRetryHintIsHonoured(t *testing.T) {
	const after = 300 * time.Millisecond
	c := newControl()
	var refused, back time.Time
	c.opened = func(session int, _ serverStream) error {
		if session > 1 {
			back = time.Now()
			return nil
		}
		refused = time.Now()
		answer, err := status.New(codes.ResourceExhausted, "too many agents").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
		if err != nil {
			return err
		}
		return answer.Err()
	}
	address, _ := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, nil) // whose own backoff is 20 ms at most
	testkit.Eventually(t, "the second session", func() bool { return see(c, func() bool { return c.sessions == 2 }) })
	want := a.report(t, 1, 3)
	allAcknowledged(t, a)
	wantStored(t, c, want)
	if waited := back.Sub(refused); waited < after {
		t.Errorf("came back after %v, asked was %v", waited, after)
	}
}

func TestHintsAreBoundedAndKeepTheKind(t *testing.T) {
	for _, tc := range []struct{ asked, want time.Duration }{
		{time.Second, time.Second}, {-time.Second, 0}, {1000 * time.Hour, maxHint},
	} {
		answer, err := status.New(codes.Unavailable, "away").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(tc.asked)})
		if err != nil {
			t.Fatal(err)
		}
		got := fromServer(answer.Err())
		hint, ok := errors.AsType[busy](got)
		if !ok || hint.after != tc.want || !fault.Is(got, fault.Unavailable) {
			t.Errorf("asked for %v: %v, %v; want to wait %v", tc.asked, got, hint.after, tc.want)
		}
	}
	if _, ok := errors.AsType[busy](fromServer(status.Error(codes.Unavailable, "away"))); ok {
		t.Error("a hint that nobody gave")
	}
}

func TestWaitsAreSpread(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 200 {
		d := spread(10*time.Second, time.Second)
		if d < 10*time.Second || d > 16*time.Second {
			t.Fatalf("%v for ten seconds that were asked", d)
		}
		seen[d.Truncate(time.Second)] = true
		if d := jitter(10 * time.Second); d < 5*time.Second || d > 10*time.Second {
			t.Fatalf("jitter %v", d)
		}
	}
	if len(seen) < 5 {
		t.Errorf("agents come back within %d seconds of each other", len(seen))
	}
	if d := spread(0, 0); d != 0 {
		t.Errorf("no wait is %v", d)
	}
}
