package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const hintSilences = "agentctl silences list --expired lists the silences"

// Router decides who is told; it is routing's.
type Router interface {
	// SetSilence makes or changes a silence.
	SetSilence(tx *store.Tx, silence *controlv1.Silence) (*controlv1.Silence, error)
	// ExpireSilence ends one.
	ExpireSilence(tx *store.Tx, id, author string) (*controlv1.Silence, error)
	// Describe gives an incident as an alert.
	Describe(tx *store.Tx, record store.IncidentRecord, now time.Time) (*controlv1.Alert, error)
	// Explain gives the way of an alert through the routing tree.
	Explain(labels map[string]string) []route.Step
	// Mutes gives what keeps an alert from being told.
	Mutes(tx *store.Tx, incidentID string, labels map[string]string, now time.Time) (silencedBy, inhibitedBy []string, err error)
}

// silences is the SilenceService.
type silences struct {
	controlv1.UnimplementedSilenceServiceServer
	store  *store.Store
	router Router
	clock  func() time.Time
}

// ListSilences lists silences, those that end last first.
func (s *silences) ListSilences(ctx context.Context, in *controlv1.ListSilencesRequest) (*controlv1.ListSilencesResponse, error) {
	now, out := s.clock(), &controlv1.ListSilencesResponse{}
	after := now
	if in.Expired {
		after = time.Time{}
	}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		out.Silences, err = tx.Silences(after)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, silence := range out.Silences {
		routing.WithState(silence, now)
	}
	return out, nil
}

// CreateSilence makes a silence, or changes one.
func (s *silences) CreateSilence(ctx context.Context, in *controlv1.CreateSilenceRequest) (*controlv1.CreateSilenceResponse, error) {
	if in.Silence == nil {
		return nil, fault.New(fault.Invalid, "silence is missing")
	}
	silence := proto.CloneOf(in.Silence)
	if silence.Ends == nil && in.Duration != nil {
		begin := s.clock()
		if silence.Starts != nil {
			begin = silence.Starts.AsTime()
		}
		silence.Ends = timestamppb.New(begin.Add(in.Duration.AsDuration()))
	}
	out := &controlv1.CreateSilenceResponse{}
	err := s.store.Update(ctx, func(tx *store.Tx) (err error) {
		out.Silence, err = s.router.SetSilence(tx, silence)
		return err
	})
	if err != nil {
		return nil, noSilence(err, silence.GetSilenceId())
	}
	return out, nil
}

// ExpireSilence ends a silence now.
func (s *silences) ExpireSilence(ctx context.Context, in *controlv1.ExpireSilenceRequest) (*controlv1.ExpireSilenceResponse, error) {
	if err := required("silence_id", in.SilenceId, hintSilences); err != nil {
		return nil, err
	}
	out := &controlv1.ExpireSilenceResponse{}
	err := s.store.Update(ctx, func(tx *store.Tx) (err error) {
		out.Silence, err = s.router.ExpireSilence(tx, in.SilenceId, in.Author)
		return err
	})
	if err != nil {
		return nil, noSilence(err, in.SilenceId)
	}
	return out, nil
}

func noSilence(err error, id string) error {
	if fault.Is(err, fault.NotFound) {
		return fault.WithHint(fault.New(fault.NotFound, "there is no silence %q", id), hintSilences)
	}
	return err
}
