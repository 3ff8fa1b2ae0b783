package api

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/fleet"
	advice "github.com/vigil-ml/vigil/controlplane/runs"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/telemetry"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	hintRuns   = "agentctl get runs lists the runs"
	perRunList = 50 // incidents and checkpoints that GetRun shows at most
)

// runs is the RunService.
type runs struct {
	controlv1.UnimplementedRunServiceServer
	store   *store.Store
	history History
	saver   Saver
	tracer  trace.Tracer
}

// known refuses a run that there is not; an empty id stands for every run.
func known(tx *store.Tx, runID string) error {
	if runID == "" {
		return nil
	}
	_, err := findRun(tx, runID)
	return err
}

func findRun(tx *store.Tx, runID string) (*controlv1.Run, error) {
	run, err := tx.Run(runID)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no run %q", runID), hintRuns)
	}
	return run, err
}

// ListRuns lists runs, the newest first.
func (s *runs) ListRuns(ctx context.Context, in *controlv1.ListRunsRequest) (*controlv1.ListRunsResponse, error) {
	limit, err := limitOf(in.Limit)
	if err != nil {
		return nil, err
	}
	out := &controlv1.ListRunsResponse{}
	err = s.store.View(ctx, func(tx *store.Tx) (err error) {
		out.Runs, err = tx.Runs(limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// GetRun shows one run with its attempts, incidents and checkpoints.
func (s *runs) GetRun(ctx context.Context, in *controlv1.GetRunRequest) (*controlv1.GetRunResponse, error) {
	if err := required("run_id", in.RunId, hintRuns); err != nil {
		return nil, err
	}
	out := &controlv1.GetRunResponse{}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		if out.Run, err = findRun(tx, in.RunId); err != nil {
			return err
		}
		if out.Attempts, err = tx.Attempts(in.RunId); err != nil {
			return err
		}
		if out.Checkpoints, err = tx.Checkpoints(in.RunId, perRunList); err != nil {
			return err
		}
		out.Incidents, err = wholeIncidents(tx, in.RunId)
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Advice = advice.Advise(out.Attempts, out.Run.GetStep(), time.Now())
	return out, nil
}

// wholeIncidents reads a run's incidents with findings and timeline.
func wholeIncidents(tx *store.Tx, runID string) ([]*controlv1.Incident, error) {
	listed, err := tx.Incidents(runID, perRunList)
	if err != nil {
		return nil, err
	}
	for i, incident := range listed {
		if listed[i], err = tx.Incident(incident.IncidentId); err != nil {
			return nil, err
		}
	}
	return listed, nil
}

// WatchEvents streams a run's events from its first one on.
func (s *runs) WatchEvents(in *controlv1.WatchEventsRequest, out grpc.ServerStreamingServer[controlv1.WatchEventsResponse]) error {
	if err := required("run_id", in.RunId, hintRuns); err != nil {
		return err
	}
	var nodes []string
	err := s.store.View(out.Context(), func(tx *store.Tx) error {
		run, err := findRun(tx, in.RunId)
		if in.WithNodes {
			nodes = run.GetNodes()
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := out.Send(&controlv1.WatchEventsResponse{}); err != nil {
		return err
	}
	yield := func(frame bus.Delivery) error {
		for _, event := range frame.Batch.GetEvents() {
			response := &controlv1.WatchEventsResponse{Event: &controlv1.RunEvent{Sequence: frame.Sequence, Event: event}}
			if err := out.Send(response); err != nil {
				return err
			}
		}
		return nil
	}
	if in.AfterSequence > 0 {
		return s.history.News(out.Context(), in.RunId, in.AfterSequence, yield)
	}
	return s.history.HistoryWithNodes(out.Context(), in.RunId, nodes, in.Follow, yield)
}

// ProfileRun has ranks of a run record what they do for some steps.
func (s *runs) ProfileRun(ctx context.Context, in *controlv1.ProfileRunRequest) (out *controlv1.ProfileRunResponse, err error) {
	timeout, err := within(in.Timeout, fleet.DefaultProfileTimeout)
	if err != nil {
		return nil, err
	}
	ranks := in.Ranks
	switch {
	case in.AllRanks:
		ranks = nil
	case len(ranks) == 0:
		ranks = []uint32{0}
	}
	ctx, span := s.tracer.Start(traced(ctx), "vigil.profile.request")
	defer span.End()
	runID := ""
	err = s.store.View(ctx, func(tx *store.Tx) (err error) {
		runID, err = theRun(tx, in.RunId)
		return err
	})
	if err != nil {
		return nil, err
	}
	// Asked before the command is written: nothing of the profile comes earlier.
	last, err := s.history.LastOfRun(ctx, runID)
	if err != nil {
		return nil, err
	}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		out, err = s.saver.RequestProfile(tx, fleet.ProfileRequest{
			RunID: runID, Steps: in.Steps, Ranks: ranks, Traceparent: telemetry.Traceparent(ctx), Timeout: timeout,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	out.AfterSequence = last
	return out, nil
}
