// Package agreement keeps the notes by which the agents of a run's nodes agree
// on the checkpoint that all ranks go on from. It decides nothing: who reads
// what in which order is in agent/vault. Notes are rows, so that replicas share
// them and a control plane that is started again has them.
package agreement

import (
	"context"
	"regexp"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

const (
	maxNotes   = 16
	maxContent = 64 << 10
	maxRunID   = 256
	maxWait    = 5 * time.Second
	// pause is how long notes are gathered before they are told: the ranks of a
	// large run post within moments of each other, and each note wakes all.
	pause = 5 * time.Millisecond
)

// Deps is what a service needs.
type Deps struct {
	Store *store.Store
	// Known refuses a caller that is no known node, and gives the node.
	Known func(context.Context) (node string, err error)
}

// Service answers agents. It is safe for concurrent use.
type Service struct {
	agentv1.UnimplementedAgreementServiceServer

	deps Deps
	name *regexp.Regexp
}

// New makes a service.
func New(deps Deps) *Service {
	return &Service{deps: deps, name: regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,127}$`)}
}

// Meet posts notes and gives those behind a place, once there are any or the
// wait is over.
func (s *Service) Meet(ctx context.Context, in *agentv1.MeetRequest) (*agentv1.MeetResponse, error) {
	out, err := s.meet(ctx, in)
	if err != nil {
		return nil, fault.GRPC(err)
	}
	return out, nil
}

func (s *Service) meet(ctx context.Context, in *agentv1.MeetRequest) (*agentv1.MeetResponse, error) {
	if _, err := s.deps.Known(ctx); err != nil {
		return nil, err
	}
	if err := s.check(in); err != nil {
		return nil, err
	}
	if len(in.GetNotes()) > 0 {
		err := s.deps.Store.Update(ctx, func(tx *store.Tx) error {
			for _, note := range in.GetNotes() {
				if _, err := tx.PostAgreement(in.GetRunId(), note); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	late := time.NewTimer(in.GetWait().AsDuration())
	defer late.Stop()
	for {
		changed := s.deps.Store.Changed(store.TopicAgreement)
		out := &agentv1.MeetResponse{}
		err := s.deps.Store.View(ctx, func(tx *store.Tx) (err error) {
			out.Notes, err = tx.Agreement(in.GetRunId(), in.GetAfter())
			return err
		})
		if err != nil || len(out.Notes) > 0 {
			return out, err
		}
		select {
		case <-changed:
			time.Sleep(pause)
		case <-late.C:
			return out, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Service) check(in *agentv1.MeetRequest) error {
	switch wait := in.GetWait().AsDuration(); {
	case in.GetRunId() == "" || len(in.GetRunId()) > maxRunID:
		return fault.New(fault.Invalid, "meet: the run's id has %d bytes; want 1 to %d", len(in.GetRunId()), maxRunID)
	case len(in.GetNotes()) > maxNotes:
		return fault.New(fault.Invalid, "meet: %d notes in one call; at most %d", len(in.GetNotes()), maxNotes)
	case wait < 0 || wait > maxWait:
		return fault.New(fault.Invalid, "meet: wait is %s; want 0 to %s", wait, maxWait)
	}
	for _, note := range in.GetNotes() {
		switch {
		case note.GetRound() == 0:
			return fault.New(fault.Invalid, "meet: note %.64q is of round 0; rounds count from 1", note.GetName())
		case !s.name.MatchString(note.GetName()):
			return fault.New(fault.Invalid, "meet: a note is called %.64q; want lower-case letters, digits, '-' and '.'", note.GetName())
		case len(note.GetContent()) > maxContent:
			return fault.New(fault.Invalid, "meet: note %s has %d bytes; at most %d", note.GetName(), len(note.GetContent()), maxContent)
		}
	}
	return nil
}
