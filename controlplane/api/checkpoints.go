package api

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	hintCheckpoints = "agentctl get checkpoints lists the checkpoints"
	maxTimeout      = time.Hour
)

// checkpoints is the CheckpointService.
type checkpoints struct {
	controlv1.UnimplementedCheckpointServiceServer
	store  *store.Store
	saver  Saver
	tracer trace.Tracer
}

// ListCheckpoints lists checkpoints, the newest first.
func (s *checkpoints) ListCheckpoints(ctx context.Context, in *controlv1.ListCheckpointsRequest) (*controlv1.ListCheckpointsResponse, error) {
	limit, err := limitOf(in.Limit)
	if err != nil {
		return nil, err
	}
	out := &controlv1.ListCheckpointsResponse{}
	err = s.store.View(ctx, func(tx *store.Tx) (err error) {
		if err := known(tx, in.RunId); err != nil {
			return err
		}
		out.Checkpoints, err = tx.Checkpoints(in.RunId, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// RequestCheckpoint has a run saved.
func (s *checkpoints) RequestCheckpoint(ctx context.Context, in *controlv1.RequestCheckpointRequest) (*controlv1.RequestCheckpointResponse, error) {
	timeout, err := timeoutOf(in)
	if err != nil {
		return nil, err
	}
	ctx, span := s.tracer.Start(traced(ctx), "vigil.checkpoint.request")
	defer span.End()
	out := &controlv1.RequestCheckpointResponse{}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		runID, err := theRun(tx, in.RunId)
		if err != nil {
			return err
		}
		out.Checkpoint, err = s.saver.RequestCheckpoint(tx, fleet.SaveRequest{
			RunID:            runID,
			Reason:           commonv1.CheckpointReason_CHECKPOINT_REASON_OPERATOR,
			After:            in.After,
			IdempotencyKey:   in.IdempotencyKey,
			Traceparent:      telemetry.Traceparent(ctx),
			Timeout:          timeout,
			RequireConnected: true,
		})
		if err != nil {
			return err
		}
		out.Deadline, err = deadlineOf(tx, out.Checkpoint.CheckpointId)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// deadlineOf gives when the commands for a checkpoint are given up; a repeated
// request gets the first one's.
func deadlineOf(tx *store.Tx, checkpointID string) (*timestamppb.Timestamp, error) {
	commands, err := tx.CommandsOf(checkpointID)
	if err != nil {
		return nil, err
	}
	var last time.Time
	for _, command := range commands {
		if command.Deadline.After(last) {
			last = command.Deadline
		}
	}
	return timestamppb.New(last), nil
}

// timeoutOf checks a request's limits and gives how long it may take.
func timeoutOf(in *controlv1.RequestCheckpointRequest) (time.Duration, error) {
	if _, ok := commonv1.AfterCheckpoint_name[int32(in.After)]; !ok {
		return 0, fault.New(fault.Invalid, "after is %d; want CONTINUE, RESTART or STOP", in.After)
	}
	return within(in.Timeout, fleet.DefaultTimeout)
}

// within gives how long something may take: what a request says, or the default.
func within(asked *durationpb.Duration, byDefault time.Duration) (time.Duration, error) {
	if asked == nil {
		return byDefault, nil
	}
	timeout := asked.AsDuration()
	if err := asked.CheckValid(); err != nil || timeout <= 0 || timeout > maxTimeout {
		return 0, fault.New(fault.Invalid, "timeout is %v; want more than 0 and at most %v", timeout, maxTimeout)
	}
	return timeout, nil
}

// traced carries on the trace that the caller began, if any.
func traced(ctx context.Context) context.Context {
	if values := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(values) > 0 {
		return telemetry.WithTraceparent(ctx, values[0])
	}
	return ctx
}

// theRun gives the run that is named or, where none is, the one that trains now.
func theRun(tx *store.Tx, named string) (string, error) {
	if named != "" {
		return named, nil
	}
	open, err := tx.OpenRuns()
	if err != nil {
		return "", err
	}
	var running []string
	for _, run := range open {
		running = append(running, run.RunId)
	}
	switch len(running) {
	case 0:
		return "", fault.WithHint(fault.New(fault.Precondition, "no run trains now"),
			"start one with vigil-trainer run; "+hintRuns)
	case 1:
		return running[0], nil
	default:
		return "", fault.WithHint(fault.New(fault.Precondition, "%d runs train now: %s", len(running), strings.Join(running, ", ")),
			"say which one, for instance --run "+running[0])
	}
}

// WatchCheckpoint streams a checkpoint as it is, then each time that it
// reaches a state, and ends when it is verified or failed. States that are
// reached together are streamed together.
func (s *checkpoints) WatchCheckpoint(in *controlv1.WatchCheckpointRequest, out grpc.ServerStreamingServer[controlv1.WatchCheckpointResponse]) error {
	if err := required("checkpoint_id", in.CheckpointId, hintCheckpoints); err != nil {
		return err
	}
	var last *controlv1.Checkpoint
	for {
		// Taken before the read, so that a commit between the two is not missed.
		changed := s.store.Changed(store.TopicCheckpoints)
		now, err := s.find(out.Context(), in.CheckpointId)
		if err != nil {
			return err
		}
		if !proto.Equal(last, now) {
			if err := out.Send(&controlv1.WatchCheckpointResponse{Checkpoint: now}); err != nil {
				return err
			}
			last = now
		}
		if settled(now.State) {
			return nil
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

func (s *checkpoints) find(ctx context.Context, id string) (checkpoint *controlv1.Checkpoint, err error) {
	err = s.store.View(ctx, func(tx *store.Tx) error {
		checkpoint, err = tx.Checkpoint(id)
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no checkpoint %q", id), hintCheckpoints)
	}
	return checkpoint, err
}

// settled tells whether a watcher has nothing more to wait for.
func settled(state commonv1.CheckpointState) bool {
	return state >= commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED
}
