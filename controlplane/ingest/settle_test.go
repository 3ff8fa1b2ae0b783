package ingest

import (
	"context"
	"errors"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/internal/fault"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// slowDisk is a bus whose syncs end when the test says so, with what it says.
type slowDisk struct {
	*bus.Bus
	began chan uint64 // the sequence that a sync is for
	end   chan error
}

func (d slowDisk) Settle(ctx context.Context, sequence uint64) error {
	d.began <- sequence
	select {
	case err := <-d.end:
		return errors.Join(err, d.Bus.Settle(ctx, sequence))
	case <-ctx.Done():
		return ctx.Err()
	}
}

func startSlow(t *testing.T) (*plane, slowDisk) {
	p := start(t, t.TempDir())
	disk := slowDisk{p.bus, make(chan uint64, 100), make(chan error, 100)}
	p.service.deps.Bus = disk
	return p, disk
}

// TestFramesShareASync has frames come while a sync goes on: they are taken, none is
// acknowledged, and the next sync is for all of them.
func TestFramesShareASync(t *testing.T) {
	p, disk := startSlow(t)
	a, _ := p.connect("n")
	a.say(say(eventFrame("r", 1, 1)))
	first := <-disk.began
	const more = 20
	for i := range uint64(more) {
		a.say(say(eventFrame("r", 1, i+2)))
	}
	// Samples come behind them and are acknowledged ahead of them.
	a.say(say(sampleFrame(1, &agentv1.SampleBatch{})))
	if ack := a.hear().GetAck(); ack.GetClass() != samples {
		t.Fatalf("%v was acknowledged before its sync had ended", ack)
	}
	if got := p.frames("events", resultStored); got != more+1 {
		t.Errorf("%v frames are on the bus, want %d: they waited for the sync", got, more+1)
	}
	disk.end <- nil
	if ack := a.hear().GetAck(); ack.GetPosition().GetSequence() != 1 {
		t.Errorf("after the first sync %v is acknowledged", ack)
	}
	if second := <-disk.began; second != first+more {
		t.Errorf("the next sync is for all up to %d, want %d", second, first+more)
	}
	disk.end <- nil
	if ack := a.hear().GetAck(); ack.GetPosition().GetSequence() != more+1 {
		t.Errorf("after the second sync %v is acknowledged", ack)
	}
	if len(disk.began) != 0 {
		t.Error("there was a third sync")
	}
}

// TestASyncThatFailsEndsTheSession holds that nothing is acknowledged then.
func TestASyncThatFailsEndsTheSession(t *testing.T) {
	p, disk := startSlow(t)
	a, _ := p.connect("n")
	a.say(say(eventFrame("r", 1, 1)))
	<-disk.began
	disk.end <- fault.New(fault.Unavailable, "planted")
	answer, err := a.stream.Recv()
	if err == nil {
		t.Fatalf("the agent got %v", answer)
	}
	if why := fault.FromGRPC(err); !fault.Is(why, fault.Unavailable) && !fault.Is(why, fault.Canceled) {
		t.Errorf("the session ended with %v", why)
	}
}

// TestDrainWaitsForTheSync holds that what was taken is acknowledged before the agent
// is sent away.
func TestDrainWaitsForTheSync(t *testing.T) {
	p, disk := startSlow(t)
	a, _ := p.connect("n")
	a.say(say(eventFrame("r", 1, 1)))
	<-disk.began
	p.stop()
	disk.end <- nil
	if ack := a.hear().GetAck(); ack.GetPosition().GetSequence() != 1 {
		t.Errorf("the first that comes is %v, not the acknowledgement", ack)
	}
	if answer := a.hear(); answer.GetDrain() == nil {
		t.Errorf("then %v comes, not Drain", answer)
	}
}
