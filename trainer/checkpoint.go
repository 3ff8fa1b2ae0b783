package trainer

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// lostWait is how long a broken call waits for the session to be seen gone.
const lostWait = 200 * time.Millisecond

// requestPatience is how long an agent that was there is waited for before it
// is asked for a checkpoint again: a supervisor that is told to stop has other
// ways.
const requestPatience = time.Second

// FromNothing, as Recovery.From, asks an attempt to begin anew.
const FromNothing = "nothing"

// Save makes the checkpoint of an order: it asks for a directory, has write
// put regular files into it, and hands them over; metadata's rank and world
// size are filled in. It gives the checkpoint's id. From then on the agent
// keeps it, whatever becomes of the process.
//
// While the agent is away Save waits for it as long as the order's Patience
// has it, until ctx ends at most, and then fails with fault.Unavailable;
// without an agent at once. When write fails the checkpoint is reported as
// failed and what was written is removed. When only the answer to the handing
// over is missing nothing is reported, as the agent may well have taken it. A
// failing Save is no reason to stop training.
func (s *Session) Save(ctx context.Context, order *Order, metadata *commonv1.CheckpointMetadata, write func(dir string) error) (string, error) {
	if s.client == nil {
		return "", fault.New(fault.Unavailable, "save checkpoint: there is no agent to keep it")
	}
	ctx, span := s.deps.Tracer.Start(telemetry.WithTraceparent(ctx, order.Traceparent), "vigil.save")
	defer span.End()
	id, unanswered, err := s.save(ctx, order, metadata, write)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		if id == "" {
			id = order.CheckpointID
		}
		if !unanswered {
			s.failed(order, id, err.Error())
		}
		return id, fmt.Errorf("save checkpoint of step %d: %w", metadata.GetStep(), err)
	}
	return id, nil
}

// WriteFile puts a file of a checkpoint into the directory that Save's write was
// given; name is one path element. It does what os.WriteFile does, several times
// as fast: the agent's memory of the checkpoint before is written over.
func (s *Session) WriteFile(dir, name string, data []byte) error {
	return s.files.WriteFile(dir, name, data)
}

// save gives also whether the agent was asked to take the checkpoint and did
// not say whether it did.
func (s *Session) save(ctx context.Context, order *Order, metadata *commonv1.CheckpointMetadata, write func(dir string) error) (id string, unanswered bool, err error) {
	var place *trainerv1.BeginCheckpointResponse
	err = s.call(ctx, order.Patience, func(ctx context.Context, session string) (err error) {
		place, err = s.client.BeginCheckpoint(ctx, &trainerv1.BeginCheckpointRequest{
			SessionId: session, CheckpointId: order.CheckpointID, Reason: order.Reason,
		})
		return err
	})
	if err != nil {
		return "", false, err
	}
	dir := place.GetStagingDirectory()
	err = write(dir)
	if err == nil {
		err = s.fits(dir)
	}
	if err != nil {
		_ = os.RemoveAll(dir) // the room may be memory; the cause is what counts
		return place.GetCheckpointId(), false, err
	}
	metadata = proto.CloneOf(metadata)
	metadata.Rank, metadata.WorldSize = s.config.Rank, s.config.WorldSize
	err = s.call(ctx, order.Patience, func(ctx context.Context, session string) error {
		_, err := s.client.CommitCheckpoint(ctx, &trainerv1.CommitCheckpointRequest{
			SessionId: session, CheckpointId: place.GetCheckpointId(), Metadata: metadata,
			Traceparent: telemetry.Traceparent(ctx),
		})
		// A later refusal proves nothing: the agent may refuse what it has.
		unanswered = unanswered || noAnswer(err)
		return err
	})
	return place.GetCheckpointId(), unanswered, err
}

// noAnswer tells whether a call broke off so that it may have been carried out
// all the same.
func noAnswer(err error) bool {
	return fault.Is(err, fault.Unavailable) || fault.Is(err, fault.Deadline) || fault.Is(err, fault.Canceled)
}

// Resume gives the checkpoint to go on from, nil to begin from nothing, and
// the newer ones that were passed over with the reasons. Without an agent it
// is nil, and so it is where the attempt is asked to begin anew. While an agent that should be there does not answer, it waits until
// ctx ends and fails with fault.Unavailable: beginning from nothing is the
// caller's decision.
func (s *Session) Resume(ctx context.Context) (*commonv1.CheckpointRef, []*trainerv1.PassedOver, error) {
	if s.client == nil || s.config.Recovery.From == FromNothing {
		return nil, nil, nil
	}
	var answer *trainerv1.ResolveResumeResponse
	err := s.call(ctx, 0, func(ctx context.Context, session string) (err error) {
		answer, err = s.client.ResolveResume(ctx, &trainerv1.ResolveResumeRequest{
			SessionId: session, WorldSize: s.config.WorldSize, Mode: s.config.Mode, Except: s.config.Recovery.Except,
		})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("resolve checkpoint to resume from: %w", err)
	}
	if err := s.refuseFallback(answer.GetPassedOver()); err != nil {
		return nil, answer.GetPassedOver(), fmt.Errorf("resolve checkpoint to resume from: %w", err)
	}
	return answer.GetCheckpoint(), answer.GetPassedOver(), nil
}

// RequestCheckpoint has every process of the run save; it is a supervisor's.
// It fails with fault.Unavailable when no agent answers for a second, and with
// fault.NotFound when no training process of the run is registered.
func (s *Session) RequestCheckpoint(ctx context.Context, reason commonv1.CheckpointReason, after commonv1.AfterCheckpoint, timeout time.Duration) (string, error) {
	if s.client == nil {
		return "", fault.New(fault.Unavailable, "request checkpoint: there is no agent")
	}
	var answer *trainerv1.RequestCheckpointResponse
	err := s.call(ctx, requestPatience, func(ctx context.Context, session string) (err error) {
		answer, err = s.client.RequestCheckpoint(ctx, &trainerv1.RequestCheckpointRequest{
			SessionId: session, Reason: reason, After: after, Timeout: durationpb.New(timeout),
		})
		return err
	})
	if err != nil {
		return "", fmt.Errorf("request checkpoint: %w", err)
	}
	return answer.GetCheckpointId(), nil
}

// call makes a call with the session of the moment. When the session turns out
// to be gone, as after a restart of the agent, the call is made again with the
// next one, which is waited for that long at a time; 0: until ctx ends.
func (s *Session) call(ctx context.Context, patience time.Duration, do func(ctx context.Context, session string) error) error {
	gone, notFound := "", 0
	for {
		session, ok := s.link.await(ctx, patience, gone)
		if !ok {
			return fault.New(fault.Unavailable, "no agent answers at %s", s.config.Socket)
		}
		err := fault.FromGRPC(do(ctx, session))
		switch {
		case fault.Is(err, fault.NotFound): // of the session, or of what was asked for
			notFound++
			if notFound > 1 {
				return err
			}
		case !fault.Is(err, fault.Unavailable):
			return err
		}
		s.doubt(session)
		if !s.lost(ctx, session) {
			return err
		}
		gone = session
	}
}

// doubt has a session registered anew that nobody watches for: without a watch
// a restart of the agent is not seen. With one it is seen at once.
func (s *Session) doubt(session string) {
	if s.watches() {
		return
	}
	select {
	case s.doubted <- session:
	default:
	}
}

// lost tells whether a session is gone, and waits a little to see.
func (s *Session) lost(ctx context.Context, session string) bool {
	now, changed := s.link.state()
	if now != session {
		return true
	}
	select {
	case <-changed:
		return true
	case <-ctx.Done():
	case <-time.After(lostWait):
	}
	return false
}
