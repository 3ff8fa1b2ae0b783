// Package standing remembers how the runs of this node stand: what was saved
// last, how long saving takes here, and what the node said is broken. It takes
// all of it from the events that pass by.
//
// A supervisor that is told to stop asks for it, to know whether there is time
// to save in full; and after the end of a process, to know what the kernel says.
package standing

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const (
	maxRuns        = 1024 // that are remembered; the one not heard of for longest goes first
	maxCheckpoints = 32   // of a run
	maxTimes       = 8    // of saving, of a run
	maxFaults      = 128  // of the node
)

// Book is what is remembered. Make one with New. It is safe for concurrent use.
type Book struct {
	clock func() time.Time

	mu     sync.Mutex
	runs   map[string]*run
	faults []seen
}

// seen is a fault and when it was heard of.
type seen struct {
	at    time.Time
	fault *commonv1.NodeFault
}

// run is one run.
type run struct {
	heard       time.Time
	checkpoints []*checkpoint // in the order in which they were first heard of
	stage, seal []time.Duration
}

// checkpoint is one of a run's checkpoints, of all its ranks here.
type checkpoint struct {
	trainerv1.CheckpointStanding
	asked, staged time.Time // zero: not known
}

// New makes a book with nothing in it.
func New(clock func() time.Time) *Book {
	return &Book{clock: clock, runs: map[string]*run{}}
}

// Observe takes an event of a trainer, of the vault or of the node. It does not
// block.
func (b *Book) Observe(event *commonv1.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch body := event.GetBody().(type) {
	case *commonv1.Event_NodeFault:
		if len(b.faults) == maxFaults {
			b.faults = slices.Delete(b.faults, 0, 1)
		}
		b.faults = append(b.faults, seen{at: b.clock(), fault: proto.CloneOf(body.NodeFault)})
	case *commonv1.Event_Checkpoint:
		at := b.clock()
		if event.GetTime() != nil {
			at = event.Time.AsTime()
		}
		b.of(event.GetRunId()).checkpoint(body.Checkpoint, at)
	}
}

// Began notes that a trainer began to write a checkpoint by itself: nobody asked
// for it, so that its time runs from here.
func (b *Book) Began(runID, checkpointID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.of(runID).find(checkpointID); c.asked.IsZero() {
		c.asked = b.clock()
	}
}

// of gives a run, new or known.
func (b *Book) of(runID string) *run {
	r := b.runs[runID]
	if r == nil {
		if len(b.runs) == maxRuns {
			oldest := ""
			for id, other := range b.runs {
				if oldest == "" || other.heard.Before(b.runs[oldest].heard) {
					oldest = id
				}
			}
			delete(b.runs, oldest)
		}
		r = &run{}
		b.runs[runID] = r
	}
	r.heard = b.clock()
	return r
}

// find gives a checkpoint, new or known.
func (r *run) find(id string) *checkpoint {
	for _, c := range r.checkpoints {
		if c.CheckpointId == id {
			return c
		}
	}
	if len(r.checkpoints) == maxCheckpoints {
		r.checkpoints = slices.Delete(r.checkpoints, 0, 1)
	}
	c := &checkpoint{}
	c.CheckpointId = id
	r.checkpoints = append(r.checkpoints, c)
	return c
}

// checkpoint takes in that a checkpoint reached a state. Several ranks reach it
// one after the other: the last one counts for times.
func (r *run) checkpoint(progress *commonv1.CheckpointProgress, at time.Time) {
	c := r.find(progress.GetCheckpointId())
	c.Step = max(c.Step, progress.GetStep())
	state := progress.GetState()
	switch state {
	case commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED:
		if c.asked.IsZero() {
			c.asked = at
		}
	case commonv1.CheckpointState_CHECKPOINT_STATE_STAGED:
		c.staged = at
		if !c.asked.IsZero() {
			r.stage = remember(r.stage, at.Sub(c.asked))
		}
	case commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED:
		if !c.staged.IsZero() {
			r.seal = remember(r.seal, at.Sub(c.staged))
		}
	}
	c.State = max(c.State, state)
}

func remember(times []time.Duration, d time.Duration) []time.Duration {
	if len(times) == maxTimes {
		times = slices.Delete(times, 0, 1)
	}
	return append(times, max(0, d))
}

// Of tells how a run stands. Since is from when on faults are told; zero: none
// are. Faults that are known to be another run's are left out.
func (b *Book) Of(runID string, since time.Time, checkpointID string) *trainerv1.GetStandingResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := &trainerv1.GetStandingResponse{}
	if r := b.runs[runID]; r != nil {
		for _, c := range r.checkpoints {
			if c.CheckpointId == checkpointID {
				out.Asked = proto.CloneOf(&c.CheckpointStanding)
			}
			if c.handedOver() && (out.Last == nil || c.Step >= out.Last.Step) {
				out.Last = proto.CloneOf(&c.CheckpointStanding)
			}
		}
		out.StageTime, out.SealTime = longest(r.stage), longest(r.seal)
	}
	for _, s := range b.faults {
		if !since.IsZero() && !s.at.Before(since) && (s.fault.GetRunId() == "" || s.fault.GetRunId() == runID) {
			out.Faults = append(out.Faults, s.fault)
		}
	}
	return out
}

// handedOver tells whether it is the agent's, and did not fail.
func (c *checkpoint) handedOver() bool {
	return c.State >= commonv1.CheckpointState_CHECKPOINT_STATE_STAGED && c.State != commonv1.CheckpointState_CHECKPOINT_STATE_FAILED
}

func longest(times []time.Duration) *durationpb.Duration {
	if len(times) == 0 {
		return nil
	}
	return durationpb.New(slices.Max(times))
}
