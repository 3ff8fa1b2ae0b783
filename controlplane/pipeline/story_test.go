package pipeline

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/bus"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// start is when every story begins.
var start = time.Date(2026, 3, 1, 3, 12, 0, 0, time.UTC)

// story writes the frames of several runs at once, as a bus would hold them.
type story struct {
	random *rand.Rand
	frames []bus.Delivery
	events int
}

// frame adds a frame of a run, after a gap such as refused messages leave.
func (s *story) frame(run string, attempt, rank uint32, bodies ...*commonv1.Event) {
	sequence := uint64(1)
	if n := len(s.frames); n > 0 {
		sequence = s.frames[n-1].Sequence + 1 + s.random.Uint64N(2)
	}
	for _, e := range bodies {
		s.events++
		e.EventId, e.RunId, e.Attempt, e.Rank, e.Node = fmt.Sprint("e", s.events), run, attempt, rank, fmt.Sprint("n", rank)
		e.Time = timestamppb.New(start.Add(time.Duration(s.events) * time.Millisecond))
	}
	s.frames = append(s.frames, bus.Delivery{Sequence: sequence, Message: bus.Message{
		Node: fmt.Sprint("n", rank), Received: start, Batch: &agentv1.EventBatch{RunId: run, Events: bodies},
	}})
}

func stepped(n int64, loss float64) *commonv1.Event {
	return &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: n, Loss: &loss}}}
}

func registered(world uint32) *commonv1.Event {
	return &commonv1.Event{Body: &commonv1.Event_TrainerRegistered{TrainerRegistered: &commonv1.TrainerRegistered{WorldSize: world}}}
}

func notFinite(n int64) *commonv1.Event {
	return &commonv1.Event{
		Traceparent: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
		Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{
			Step: n, Quantity: commonv1.Quantity_QUANTITY_GRADIENT, Tensor: "w", NanCount: 1, TensorSize: 8, ParametersIntact: true,
		}},
	}
}

func reached(id string, state commonv1.CheckpointState, n int64) *commonv1.Event {
	return &commonv1.Event{Body: &commonv1.Event_Checkpoint{Checkpoint: &commonv1.CheckpointProgress{CheckpointId: id, State: state, Step: n}}}
}

// write tells of runs that go well, that meet a NaN and go on in another
// attempt, that diverge, and that are not over at the end.
func write(seed uint64, runs int) []bus.Delivery {
	s := &story{random: rand.New(rand.NewPCG(seed, 1))}
	var acts []func() bool
	for n := range runs {
		acts = append(acts, s.run(fmt.Sprint("run", n), n%4))
	}
	for len(acts) > 0 {
		n := s.random.IntN(len(acts))
		if !acts[n]() {
			acts = append(acts[:n], acts[n+1:]...)
		}
	}
	return s.frames
}

// run gives what writes a run's next frame, until it gives false.
func (s *story) run(id string, kind int) func() bool {
	const length, onset = 40, 25
	attempt, at := uint32(0), int64(0)
	return func() bool {
		at++
		switch {
		case at == 1:
			s.frame(id, attempt, 0, registered(2))
			s.frame(id, attempt, 1, registered(2), stepped(1, 2))
		case at%10 == 0:
			s.frame(id, attempt, uint32(s.random.IntN(2)), reached(fmt.Sprint(id, "-", at), commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED, at))
		case kind == 1 && attempt == 0 && at == onset:
			s.frame(id, attempt, 1, notFinite(at))
			s.frame(id, attempt, 0, notFinite(at), &commonv1.Event{Body: &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{
				Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE, Restarting: true}}})
			attempt, at = 1, onset-2
		case kind == 2 && at > onset && at <= length:
			s.frame(id, attempt, 0, stepped(at, 30+float64(at)))
		case kind == 3 && at == onset:
			s.frame(id, attempt, 0, stepped(at, math.NaN()))
			s.frame(id, attempt, 1, stepped(at, 2)) // what says that rank 0 is to blame
			return false                            // and nothing more is heard of it
		case at > length:
			s.frame(id, attempt, 0, &commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{
				Outcome: commonv1.Outcome_OUTCOME_SUCCEEDED, Step: at}}})
			return false
		default:
			s.frame(id, attempt, 0, stepped(at, 2+1/float64(at)))
			s.frame(id, attempt, 1, stepped(at, 2))
		}
		return true
	}
}
