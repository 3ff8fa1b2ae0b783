package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const hintSilences = "agentctl silences list --expired lists the silences"

// Silencer makes and ends silences; it is routing's.
type Silencer interface {
	// SetSilence makes or changes a silence.
	SetSilence(tx *store.Tx, silence *controlv1.Silence) (*controlv1.Silence, error)
	// ExpireSilence ends one.
	ExpireSilence(tx *store.Tx, id, author string) (*controlv1.Silence, error)
	// Matched gives the open alerts that a silence matches.
	Matched(tx *store.Tx, silence *controlv1.Silence, now time.Time) ([]*controlv1.Alert, error)
}

// silences is the SilenceService.
type silences struct {
	controlv1.UnimplementedSilenceServiceServer
	store  *store.Store
	router Silencer
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

// GetSilence shows one silence, and which of the open alerts it matches.
func (s *silences) GetSilence(ctx context.Context, in *controlv1.GetSilenceRequest) (*controlv1.GetSilenceResponse, error) {
	if err := required("silence_id", in.SilenceId, hintSilences); err != nil {
		return nil, err
	}
	now, out := s.clock(), &controlv1.GetSilenceResponse{}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		if out.Silence, err = tx.Silence(in.SilenceId); err != nil {
			return err
		}
		out.Alerts, err = s.router.Matched(tx, out.Silence, now)
		return err
	})
	if err != nil {
		return nil, noSilence(err, in.SilenceId)
	}
	routing.WithState(out.Silence, now)
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
