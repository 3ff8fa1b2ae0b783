package uplink

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// allAcknowledged waits until the spools wait for nothing.
func allAcknowledged(t *testing.T, a *agent) {
	t.Helper()
	testkit.Eventually(t, "every frame to be acknowledged", func() bool {
		return a.events.Stats().Frames == 0 && a.samples.Stats().Frames == 0
	})
}

func wantStored(t *testing.T, c *control, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, see(c, func() []string { return c.stored })); diff != "" {
		t.Errorf("stored events (-want +got):\n%s", diff)
	}
}

func TestFramesArriveInOrderAndSeriesAreNamedFirst(t *testing.T) {
	c := newControl()
	address, _ := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, nil)
	want := a.report(t, 1, 50)
	var values []float64
	began := time.Now() // two samples of one series and millisecond would be one
	for i := range 20 {
		values = append(values, float64(i))
		err := a.journal.Samples(t.Context(), []metric.Sample{
			{Def: metric.GPUPower, Labels: []string{fmt.Sprint(i % 4)}, Value: float64(i), Time: began.Add(time.Duration(i) * time.Millisecond)},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	allAcknowledged(t, a)
	wantStored(t, c, want)
	if got := see(c, func() []float64 { return slices.Sorted(slices.Values(c.samples)) }); !cmp.Equal(got, values) {
		t.Errorf("samples %v, want %v", got, values)
	}
	if n := see(c, func() int { return c.unnamed }); n != 0 {
		t.Errorf("%d samples came before their series was named", n)
	}
	if n := see(c, func() int { return len(c.defs) }); n != 4 {
		t.Errorf("%d series were named, want 4", n)
	}
	testkit.Eventually(t, "heartbeats", func() bool { return see(c, func() bool { return c.beats >= 3 }) })
	if !a.Connected() || testutil.ToFloat64(a.up) != 1 || testutil.ToFloat64(a.sessions) != 1 {
		t.Error("the uplink does not say that it is connected once")
	}
}

func TestControlPlaneKilledInMidStreamLosesAndDoublesNothing(t *testing.T) {
	c := newControl()
	address, stop := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, nil)
	var want []string
	for round := range 4 {
		want = append(want, a.report(t, round*50+1, round*50+50)...)
		testkit.Eventually(t, "some frames", func() bool { return see(c, func() bool { return len(c.stored) > round*50+5 }) })
		stop()
		want = append(want, a.report(t, 1000+round, 1000+round)...) // while it is away
		_, stop = c.serve(t, address)
	}
	allAcknowledged(t, a)
	wantStored(t, c, want)
	if n := testutil.ToFloat64(a.sessions); n < 5 {
		t.Errorf("%v sessions, want at least 5", n)
	}
}

func TestAgentGoesOnBehindWhatIsDurable(t *testing.T) {
	c := newControl()
	c.withhold = true
	address, _ := c.serve(t, "")
	dir := t.TempDir()
	a := startAgent(t, dir, address, nil, nil)
	want := a.report(t, 1, 20)
	testkit.Eventually(t, "the frames", func() bool { return see(c, func() bool { return len(c.stored) == 20 }) })
	a.stop()
	see(c, func() bool { c.withhold = false; return true })
	b := startAgent(t, dir, address, nil, nil)
	if got := b.events.Last(); got.Sequence != 0 {
		t.Fatalf("the spool did not begin an epoch: %v", got)
	}
	want = append(want, b.report(t, 21, 25)...)
	allAcknowledged(t, b)
	wantStored(t, c, want)
	if n := see(c, func() int { return c.repeats }); n != 0 {
		t.Errorf("%d frames were sent again although Welcome named them", n)
	}
}

func TestSlowCommandHoldsUpNoAcknowledgement(t *testing.T) {
	c := newControl()
	c.opened = func(_ int, out serverStream) error {
		return out.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Command{Command: &agentv1.Command{CommandId: "slow"}}})
	}
	address, _ := c.serve(t, "")
	dir := t.TempDir()
	offline := newAgent(t, dir, "127.0.0.1:1", nil, nil)
	want := offline.report(t, 1, 300)
	offline.close()
	running, release := make(chan string), make(chan struct{})
	a := startAgent(t, dir, address, func(_ context.Context, command *agentv1.Command) {
		running <- command.CommandId
		<-release
	}, nil)
	if id := <-running; id != "slow" {
		t.Errorf("command %q", id)
	}
	allAcknowledged(t, a)
	wantStored(t, c, want)
	close(release)
}

func TestCommandsBeyondTheQueueAreRefused(t *testing.T) {
	const sent, queue = 20, 3
	c := newControl()
	c.opened = func(_ int, out serverStream) error {
		for i := range sent {
			command := &agentv1.Command{CommandId: fmt.Sprint(i)}
			if err := out.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Command{Command: command}}); err != nil {
				return err
			}
		}
		return nil
	}
	address, _ := c.serve(t, "")
	release := make(chan struct{})
	a := startAgent(t, t.TempDir(), address, func(context.Context, *agentv1.Command) {
		<-release
		panic("a command that panics takes nothing with it")
	}, func(config *Config) { config.CommandQueue = queue })
	want := a.report(t, 1, 5)
	allAcknowledged(t, a) // so every command has been received
	if got := testutil.ToFloat64(a.refused); got < sent-queue-commandWorkers || got > sent-queue {
		t.Errorf("%v commands were refused of %d, with %d in work and %d waiting", got, sent, commandWorkers, queue)
	}
	close(release)
	want = append(want, a.report(t, 6, 8)...)
	allAcknowledged(t, a)
	wantStored(t, c, want)
}

func TestUnacknowledgedFramesAreBounded(t *testing.T) {
	c := newControl()
	c.withhold = true
	address, _ := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, func(config *Config) { config.MaxInFlight = 10 })
	want := a.report(t, 1, 100)
	testkit.Eventually(t, "a full window", func() bool { return see(c, func() bool { return len(c.stored) == 10 }) })
	// Heartbeats are sent behind the frames: when some have come, no frame is on its way.
	beats := see(c, func() int { return c.beats })
	testkit.Eventually(t, "heartbeats", func() bool { return see(c, func() bool { return c.beats > beats+2 }) })
	wantStored(t, c, want[:10])
	see(c, func() error {
		c.withhold = false
		return c.stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Ack{
			Ack: &agentv1.Ack{Class: agentv1.FrameClass_FRAME_CLASS_EVENTS, Position: c.last},
		}})
	})
	allAcknowledged(t, a)
	wantStored(t, c, want)
}

func TestControlPlaneThatStopsReadingIsLeft(t *testing.T) {
	c := newControl()
	c.opened = func(session int, out serverStream) error {
		if session == 1 {
			<-out.Context().Done()
			return out.Context().Err()
		}
		return nil
	}
	address, _ := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, func(config *Config) { config.AckTimeout = 200 * time.Millisecond })
	want := a.report(t, 1, 100)
	allAcknowledged(t, a)
	wantStored(t, c, want)
	if !strings.Contains(a.log.String(), "no acknowledgement of FRAME_CLASS_EVENTS for 200ms") {
		t.Errorf("log:\n%s", a.log)
	}
}

func TestRefusedRevisionIsSaidOnceAndTriedAgain(t *testing.T) {
	c := newControl()
	c.revision = 7
	address, stop := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, func(config *Config) { config.RefusedRetry = 5 * time.Millisecond })
	want := a.report(t, 1, 3)
	testkit.Eventually(t, "several tries", func() bool { return see(c, func() bool { return c.sessions >= 4 }) })
	const says = "agent speaks revision 1, the control plane 7"
	if n := strings.Count(a.log.String(), says); n != 1 {
		t.Errorf("the refusal stands %d times in the log, want once:\n%s", n, a.log)
	}
	if a.Connected() {
		t.Error("connected although refused")
	}
	stop()
	upgraded := newControl()
	upgraded.serve(t, address)
	allAcknowledged(t, a)
	wantStored(t, upgraded, want)
}

func TestDrainIsHonoured(t *testing.T) {
	const after = 300 * time.Millisecond
	c := newControl()
	var drained, back time.Time
	c.opened = func(session int, out serverStream) error {
		switch session {
		case 1:
			drained = time.Now()
			return out.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Drain{
				Drain: &agentv1.Drain{ReconnectAfter: durationpb.New(after)},
			}})
		default:
			back = time.Now()
			return nil
		}
	}
	address, _ := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, nil)
	testkit.Eventually(t, "the second session", func() bool { return see(c, func() bool { return c.sessions == 2 }) })
	want := a.report(t, 1, 3)
	allAcknowledged(t, a)
	wantStored(t, c, want)
	if waited := back.Sub(drained); waited < after {
		t.Errorf("came back after %v, want %v at least", waited, after)
	}
}

func TestControlPlaneAheadOfTheSpoolIsNotBelieved(t *testing.T) {
	c := newControl()
	c.last = &agentv1.Position{Epoch: 1 << 40, Sequence: 1}
	address, _ := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, nil)
	a.report(t, 1, 3)
	testkit.Eventually(t, "the complaint", func() bool { return strings.Contains(a.log.String(), "the last here is") })
	if got := a.events.Stats().Frames; got != 3 {
		t.Errorf("%d frames wait, want 3: nothing may be lost", got)
	}
}

func TestAcknowledgementOfWhatWasNotSentEndsTheSession(t *testing.T) {
	c := newControl()
	c.opened = func(session int, out serverStream) error {
		if session > 1 {
			return nil
		}
		return out.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Ack{Ack: &agentv1.Ack{
			Class: agentv1.FrameClass_FRAME_CLASS_EVENTS, Position: &agentv1.Position{Epoch: 1 << 40, Sequence: 9},
		}}})
	}
	address, _ := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, nil)
	want := a.report(t, 1, 5)
	allAcknowledged(t, a)
	wantStored(t, c, want)
	if !strings.Contains(a.log.String(), "was sent") {
		t.Errorf("log:\n%s", a.log)
	}
}

func TestServerErrorsAreSurvived(t *testing.T) {
	c := newControl()
	c.opened = func(session int, _ serverStream) error {
		if session < 6 {
			return status.Error(codes.Code(session), "no")
		}
		return nil
	}
	address, _ := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, func(config *Config) { config.RefusedRetry = time.Millisecond })
	want := a.report(t, 1, 5)
	allAcknowledged(t, a)
	wantStored(t, c, want)
}

func TestFrameThatCannotBeReadIsLeftOut(t *testing.T) {
	c := newControl()
	address, _ := c.serve(t, "")
	a := startAgent(t, t.TempDir(), address, nil, nil)
	want := a.report(t, 1, 1)
	for _, rubbish := range []string{"\xff\xff\xff", "\x08\x02"} {
		if _, err := a.events.Append([]byte(rubbish)); err != nil {
			t.Fatal(err)
		}
	}
	want = append(want, a.report(t, 2, 2)...)
	allAcknowledged(t, a)
	wantStored(t, c, want)
	if n := strings.Count(a.log.String(), "is left out"); n != 2 {
		t.Errorf("%d frames were left out, want 2", n)
	}
}

func TestAwayControlPlane(t *testing.T) {
	a := startAgent(t, t.TempDir(), "127.0.0.1:1", nil, nil)
	a.report(t, 1, 3)
	testkit.Eventually(t, "the complaint", func() bool { return strings.Contains(a.log.String(), "out of reach") })
	if a.Connected() {
		t.Error("connected to nothing")
	}
	a.stop()
}

func TestConfigCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"default":            {func(*Config) {}, ""},
		"batch interval":     {func(c *Config) { c.BatchInterval = c.AckTimeout + 1 }, "batch_interval"},
		"IPv6 loopback":      {func(c *Config) { c.Address = "[::1]:7443" }, ""},
		"localhost":          {func(c *Config) { c.Address = "localhost:7443" }, ""},
		"no port":            {func(c *Config) { c.Address = "localhost" }, "address"},
		"no host":            {func(c *Config) { c.Address = ":7443" }, "address"},
		"far":                {func(c *Config) { c.Address = "control:7443" }, ""},
		"backoff":            {func(c *Config) { c.BackoffMax = 1 }, "backoff_max"},
		"nothing in flight":  {func(c *Config) { c.MaxInFlight = 0 }, "max_in_flight"},
		"negative ack limit": {func(c *Config) { c.AckTimeout = -1 }, "ack_timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Defaults()
			tc.change(&c)
			var got []string
			c.Check(func(key, _ string, _ ...any) { got = append(got, key) })
			if strings.Join(got, " ") != tc.want {
				t.Errorf("problems with %q, want %q", got, tc.want)
			}
		})
	}
}

func TestJitter(t *testing.T) {
	for range 1000 {
		if d := jitter(time.Second); d < time.Second/2 || d > time.Second {
			t.Fatalf("jitter gave %v", d)
		}
	}
	if d := jitter(1); d < 0 || d > 1 {
		t.Errorf("jitter of a nanosecond is %v", d)
	}
}

func TestDrainIsBounded(t *testing.T) {
	for asked, want := range map[time.Duration]time.Duration{-1: 0, time.Second: time.Second, time.Hour: maxHint} {
		if got := newDrained(&agentv1.Drain{ReconnectAfter: durationpb.New(asked)}).after; got != want {
			t.Errorf("asked for %v: %v, want %v", asked, got, want)
		}
	}
}

func TestLaneWaitsForRoom(t *testing.T) {
	s, err := spool.Open(spool.Defaults(t.TempDir()), spool.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	l := newLane(s, agentv1.FrameClass_FRAME_CLASS_EVENTS, 1)
	p, err := s.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.enter(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.enter(ctx, p); err == nil {
		t.Error("the window has room for two")
	}
	if err := l.acknowledge(p); err != nil {
		t.Fatal(err)
	}
	if err := l.enter(ctx, p); err != nil {
		t.Errorf("no room after the acknowledgement: %v", err)
	}
}
