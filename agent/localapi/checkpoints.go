package localapi

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// Bounds on how long a requested checkpoint may take.
const (
	defaultRequestTime = time.Minute
	maxRequestTime     = time.Hour
)

// BeginCheckpoint gives a directory to write to. A checkpoint that was ordered
// carries its order's reason, command, failure and trace, whatever the trainer
// says of it.
func (a *API) BeginCheckpoint(ctx context.Context, in *trainerv1.BeginCheckpointRequest) (*trainerv1.BeginCheckpointResponse, error) {
	s, err := a.trainer(ctx, in.SessionId)
	if err != nil {
		return nil, err
	}
	req := vault.BeginRequest{
		RunID: s.RunID, CheckpointID: in.CheckpointId, Attempt: s.Attempt, Rank: s.Rank,
		Reason: in.Reason, SizeBytes: in.SizeBytes, User: s.User(),
	}
	if ordered, ok := a.deps.Orders.Lookup(in.CheckpointId); ok {
		if ordered.Order.GetRunId() != s.RunID {
			return nil, fault.New(fault.Invalid, "checkpoint %s was ordered of another run", in.CheckpointId)
		}
		req.Reason, req.Failure = ordered.Order.GetReason(), ordered.Order.GetFailure()
		req.CommandID, req.Traceparent, req.Ordered = ordered.CommandID, ordered.Traceparent, true
	}
	id, dir, err := a.deps.Checkpoints.Begin(ctx, req)
	if err != nil {
		return nil, err
	}
	a.deps.Standing.Began(s.RunID, id)
	return &trainerv1.BeginCheckpointResponse{CheckpointId: id, StagingDirectory: dir}, nil
}

// CommitCheckpoint hands the directory over.
func (a *API) CommitCheckpoint(ctx context.Context, in *trainerv1.CommitCheckpointRequest) (*trainerv1.CommitCheckpointResponse, error) {
	s, err := a.trainer(ctx, in.SessionId)
	if err != nil {
		return nil, err
	}
	err = a.deps.Checkpoints.Commit(ctx, vault.CommitRequest{
		RunID: s.RunID, CheckpointID: in.CheckpointId, Rank: s.Rank,
		Metadata: in.Metadata, Traceparent: in.Traceparent, Parent: a.sessions.resumed(s),
	})
	if err != nil {
		return nil, err
	}
	return &trainerv1.CommitCheckpointResponse{State: commonv1.CheckpointState_CHECKPOINT_STATE_STAGED}, nil
}

// ResolveResume names the checkpoint to go on from.
func (a *API) ResolveResume(ctx context.Context, in *trainerv1.ResolveResumeRequest) (*trainerv1.ResolveResumeResponse, error) {
	s, err := a.trainer(ctx, in.SessionId)
	if err != nil {
		return nil, err
	}
	ref, passed, err := a.deps.Checkpoints.Resolve(ctx, vault.ResolveRequest{
		RunID: s.RunID, Attempt: s.Attempt, Rank: s.Rank, WorldSize: in.WorldSize, Mode: in.Mode, CanReshard: in.CanReshard, Except: in.Except, User: s.User(),
		// The same when the process asks again, which it does after a restart of the agent.
		Process: fmt.Sprintf("%s/%d/%d", a.deps.Node, s.PID, s.Attempt),
	})
	if err != nil {
		return nil, err
	}
	a.sessions.setResumed(s, ref.GetCheckpointId())
	for _, p := range passed {
		a.deps.Log.Warn("checkpoint is not resumed from", "run", s.RunID, "rank", s.Rank, "checkpoint", p.CheckpointId, "reason", p.Reason)
	}
	return &trainerv1.ResolveResumeResponse{Checkpoint: ref, PassedOver: passed}, nil
}

// RequestCheckpoint tells every training process of the caller's run to save.
// It does not wait until they have. An agent that stops refuses: nobody would
// be told, and the caller has better things to do than to wait.
func (a *API) RequestCheckpoint(ctx context.Context, in *trainerv1.RequestCheckpointRequest) (*trainerv1.RequestCheckpointResponse, error) {
	s, err := a.session(ctx, in.SessionId)
	if err != nil {
		return nil, err
	}
	a.sessions.heard(s, connectionOf(ctx))
	if a.stopping() {
		return nil, fmt.Errorf("request checkpoint: %w", errStopping())
	}
	timeout := cmp.Or(in.Timeout.AsDuration(), defaultRequestTime)
	if timeout < 0 || timeout > maxRequestTime {
		return nil, fault.New(fault.Invalid, "timeout is %s; want more than 0s and at most %s", timeout, maxRequestTime)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make checkpoint id: %w", err)
	}
	order := &commonv1.CheckpointOrder{RunId: s.RunID, CheckpointId: id.String(), Reason: in.Reason, After: in.After}
	if err := a.deps.Orders.Start(ctx, order, "", a.deps.Clock().Add(timeout)); err != nil {
		return nil, err
	}
	return &trainerv1.RequestCheckpointResponse{CheckpointId: id.String()}, nil
}

// GetStanding tells how the caller's run stands.
func (a *API) GetStanding(ctx context.Context, in *trainerv1.GetStandingRequest) (*trainerv1.GetStandingResponse, error) {
	s, err := a.session(ctx, in.SessionId)
	if err != nil {
		return nil, err
	}
	a.sessions.heard(s, connectionOf(ctx))
	var since time.Time
	if in.Since != nil {
		if err := in.Since.CheckValid(); err != nil {
			return nil, fault.New(fault.Invalid, "since is no time: %v", err)
		}
		since = in.Since.AsTime()
	}
	out := a.deps.Standing.Of(s.RunID, since, in.CheckpointId)
	out.Encrypts = a.deps.Encrypts
	if a.deps.GPUBusy != nil {
		if busy, known := a.deps.GPUBusy(); known {
			out.GpuUtilization = &busy
		}
	}
	return out, nil
}

// trainer finds the session of a call that only a training process makes.
func (a *API) trainer(ctx context.Context, id string) (*Session, error) {
	s, err := a.session(ctx, id)
	if err == nil && s.Kind != trainerv1.SessionKind_SESSION_KIND_TRAINER {
		return nil, fault.New(fault.Precondition, "the session is a supervisor's; only a training process saves and resumes")
	}
	return s, err
}
