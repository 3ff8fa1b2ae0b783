package localapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// Bounds on what one call may bring.
const (
	maxEvents      = 4096
	maxSettings    = 256
	maxTextBytes   = 4096
	maxEventIDSize = 64
	maxMetrics     = 256 // of one step, by the script's own names
	maxLogRecords  = 1000
	maxAttributes  = 64
)

// Register opens a session.
func (a *API) Register(ctx context.Context, in *trainerv1.RegisterRequest) (*trainerv1.RegisterResponse, error) {
	if in.Kind == trainerv1.SessionKind_SESSION_KIND_UNSPECIFIED {
		in.Kind = trainerv1.SessionKind_SESSION_KIND_TRAINER
	}
	if err := checkRegister(in); err != nil {
		return nil, err
	}
	uid, err := a.claim(ctx, in.RunId)
	if err != nil {
		return nil, err
	}
	if trainer := in.GetTrainer(); in.Kind == trainerv1.SessionKind_SESSION_KIND_TRAINER {
		event := &commonv1.Event{
			EventId: uuid.Must(uuid.NewV7()).String(), Time: timestamppb.New(a.deps.Clock()),
			RunId: in.RunId, Attempt: in.Attempt, Rank: in.Rank,
			Body: &commonv1.Event_TrainerRegistered{TrainerRegistered: trainer},
		}
		if err := a.deps.Events(ctx, in.RunId, event); err != nil {
			return nil, fmt.Errorf("register: %w", err)
		}
	}
	s := &Session{
		RunID: in.RunId, Attempt: in.Attempt, Rank: in.Rank, Kind: in.Kind, PID: in.GetTrainer().GetPid(),
		uid: uid, conn: connectionOf(ctx),
	}
	if err := a.sessions.add(s); err != nil {
		return nil, err
	}
	a.deps.Log.Info("registered", "run", s.RunID, "attempt", s.Attempt, "rank", s.Rank, "kind", kindName(s.Kind), "pid", s.PID)
	response := &trainerv1.RegisterResponse{SessionId: s.ID, Node: a.deps.Node, Hold: durationpb.New(a.config.Hold), Telemetry: a.deps.Telemetry}
	if s.Kind == trainerv1.SessionKind_SESSION_KIND_SUPERVISOR {
		response.NextAttempt = a.book.next(s.RunID)
	} else {
		a.book.launched(s.RunID, s.uid, s.Attempt, s.PID, a.deps.Clock())
	}
	return response, nil
}

// kindName gives a kind as a word for people.
func kindName(kind trainerv1.SessionKind) string {
	return strings.ToLower(strings.TrimPrefix(kind.String(), "SESSION_KIND_"))
}

func checkRegister(in *trainerv1.RegisterRequest) error {
	if err := vault.CheckRunID(in.RunId); err != nil {
		return err
	}
	switch in.Kind {
	case trainerv1.SessionKind_SESSION_KIND_SUPERVISOR:
		return nil
	case trainerv1.SessionKind_SESSION_KIND_TRAINER:
		return checkTrainer(in)
	default:
		return fault.New(fault.Invalid, "kind %d of session is not known", in.Kind)
	}
}

func checkTrainer(in *trainerv1.RegisterRequest) error {
	t := in.Trainer
	switch {
	case t == nil:
		return fault.New(fault.Invalid, "trainer is missing; give at least its world_size and pid")
	case t.WorldSize == 0:
		return fault.New(fault.Invalid, "trainer.world_size is 0; want at least 1")
	case in.Rank >= t.WorldSize:
		return fault.New(fault.Invalid, "rank is %d; with trainer.world_size %d want less", in.Rank, t.WorldSize)
	case len(t.Settings) > maxSettings:
		return fault.New(fault.Invalid, "trainer.settings has %d entries; at most %d", len(t.Settings), maxSettings)
	case len(t.Name) > maxTextBytes || len(t.Framework) > maxTextBytes:
		return fault.New(fault.Invalid, "trainer.name or trainer.framework is longer than %d bytes", maxTextBytes)
	}
	for key, value := range t.Settings {
		if len(key) > maxTextBytes || len(value) > maxTextBytes {
			return fault.New(fault.Invalid, "trainer.settings[%.64q] is longer than %d bytes", key, maxTextBytes)
		}
	}
	return nil
}

// Report takes events. They are on stable storage when it returns without an
// error; with one, none was taken.
func (a *API) Report(ctx context.Context, in *trainerv1.ReportRequest) (*trainerv1.ReportResponse, error) {
	s, err := a.session(ctx, in.SessionId)
	if err != nil {
		return nil, err
	}
	if in.Dropped < 0 {
		return nil, fault.New(fault.Invalid, "dropped is %d; want at least 0", in.Dropped)
	}
	if len(in.Events) > maxEvents {
		return nil, fault.New(fault.Invalid, "%d events in one call; at most %d", len(in.Events), maxEvents)
	}
	a.sessions.heard(s, connectionOf(ctx))
	defer a.sessions.reporting(s)()
	var events []*commonv1.Event
	for i, event := range in.Events {
		if err := checkEvent(event); err != nil {
			return nil, fmt.Errorf("events[%d]: %w", i, err)
		}
		if a.admits(s, event) {
			s.stamp(event)
			a.clamp(s, event)
			a.sessions.fillIn(s, event.GetStep())
			events = append(events, event)
		}
	}
	if err := a.deps.Events(ctx, s.RunID, events...); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	a.events.Add(float64(len(events)))
	a.dropped.Add(float64(in.Dropped))
	for _, event := range events {
		a.learn(s, event)
		if a.deps.Observe != nil {
			a.deps.Observe(event)
		}
	}
	return &trainerv1.ReportResponse{}, nil
}

// stamp says whose event it is; what the event itself says of that does not
// count. Only a supervisor counts attempts by itself: it outlives them.
func (s *Session) stamp(event *commonv1.Event) {
	event.RunId, event.Rank, event.Node = s.RunID, s.Rank, ""
	if s.Kind != trainerv1.SessionKind_SESSION_KIND_SUPERVISOR {
		event.Attempt = s.Attempt
	}
}

// checkEvent refuses what a trainer cannot know: a checkpoint is staged, durable
// or verified when the vault says so, and commands are the agent's.
func checkEvent(event *commonv1.Event) error {
	if event == nil || event.Body == nil {
		return fault.New(fault.Invalid, "nothing is in it; set one of step, non_finite, ...")
	}
	if len(event.EventId) > maxEventIDSize || !utf8.ValidString(event.EventId) {
		return fault.New(fault.Invalid, "event_id is longer than %d bytes", maxEventIDSize)
	}
	switch body := event.Body.(type) {
	case *commonv1.Event_Step:
		if n := len(body.Step.GetMetrics()); n > maxMetrics {
			return fault.New(fault.Invalid, "a step has %d metrics; at most %d", n, maxMetrics)
		}
	case *commonv1.Event_Checkpoint:
		switch state := body.Checkpoint.GetState(); state {
		case commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED:
			return vault.CheckCheckpointID(body.Checkpoint.GetCheckpointId())
		default:
			return fault.New(fault.Invalid, "a trainer does not report that a checkpoint is %s", state)
		}
	case *commonv1.Event_Profile:
		if body.Profile.GetState() == commonv1.ProfileState_PROFILE_STATE_UNSPECIFIED || len(body.Profile.GetPath()) > maxTextBytes {
			return fault.New(fault.Invalid, "profile has no state, or its path is longer than %d bytes", maxTextBytes)
		}
		return vault.CheckCheckpointID(body.Profile.GetProfileId())
	case *commonv1.Event_CommandResult:
		return fault.New(fault.Invalid, "a trainer does not report command results")
	case *commonv1.Event_NodeReport, *commonv1.Event_NodeFault, *commonv1.Event_NodeLink, *commonv1.Event_KeyUsed:
		return fault.New(fault.Invalid, "a trainer does not report on its node")
	case *commonv1.Event_Logs:
		return checkLogs(body.Logs)
	case *commonv1.Event_Telemetry:
		if n := len(body.Telemetry.GetOtlp()); n > telemetry.MaxOTLPBytes {
			return fault.New(fault.Invalid, "telemetry has %d bytes; at most %d", n, telemetry.MaxOTLPBytes)
		}
	case *commonv1.Event_Phase:
		if body.Phase.GetKind() == 0 || body.Phase.GetEdge() == 0 {
			return fault.New(fault.Invalid, "phase says %s and %s; want a kind such as PHASE_KIND_EVALUATION, and PHASE_EDGE_BEGIN or PHASE_EDGE_END",
				body.Phase.GetKind(), body.Phase.GetEdge())
		}
	}
	return nil
}

func checkLogs(logs *commonv1.LogBatch) error {
	if n := len(logs.GetRecords()); n > maxLogRecords {
		return fault.New(fault.Invalid, "logs has %d records; at most %d", n, maxLogRecords)
	}
	for i, record := range logs.GetRecords() {
		if n := len(record.GetAttributes()); n > maxAttributes {
			return fault.New(fault.Invalid, "logs.records[%d] has %d attributes; at most %d", i, n, maxAttributes)
		}
	}
	return nil
}

// WatchDirectives streams a session's directives until its reader goes away.
func (a *API) WatchDirectives(in *trainerv1.WatchDirectivesRequest, out trainerv1.TrainerService_WatchDirectivesServer) error {
	s, err := a.session(out.Context(), in.SessionId)
	if err != nil {
		return err
	}
	ended := a.sessions.beginWatch(s)
	defer func() {
		if !a.stopping() && a.sessions.endWatch(s, ended) {
			a.deps.Log.Info("process went away", "run", s.RunID, "attempt", s.Attempt, "rank", s.Rank, "pid", s.PID)
		}
	}()
	if err := out.Send(&trainerv1.WatchDirectivesResponse{}); err != nil {
		return err
	}
	for {
		select {
		case d := <-s.directives:
			if err := out.Send(&trainerv1.WatchDirectivesResponse{Directive: d}); err != nil {
				return err
			}
		case <-s.replaced:
			return fault.New(fault.Precondition, "watch directives: rank %d of run %s registered again", s.Rank, s.RunID)
		case <-ended:
			return fault.New(fault.Precondition, "watch directives: a newer watch of the session took over")
		case <-a.closing:
			return errors.Join(sendWaiting(s, out), fmt.Errorf("watch directives: %w", errStopping()))
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

// sendWaiting gives a process what it was to be told before the agent goes.
func sendWaiting(s *Session, out trainerv1.TrainerService_WatchDirectivesServer) error {
	for {
		select {
		case d := <-s.directives:
			if err := out.Send(&trainerv1.WatchDirectivesResponse{Directive: d}); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// stopping tells whether it is the agent that goes away, not its trainers.
func (a *API) stopping() bool {
	select {
	case <-a.closing:
		return true
	default:
		return false
	}
}
