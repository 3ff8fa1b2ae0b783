package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	maxProfileSteps = 100
	keptProfiles    = 32 // traces of one run; they are megabytes
)

// ProfileDeps is what Profiles needs of others.
type ProfileDeps struct {
	Log      *slog.Logger
	Clock    func() time.Time
	Trainers Trainers
	Events   EventWriter
	Dir      string // traces are in a directory below it for each run
}

// Profiles has training processes record profiles. Observe must be told the
// events of the trainers. All methods are safe for concurrent use.
type Profiles struct {
	deps ProfileDeps

	mu    sync.Mutex
	asked map[string]map[uint32]chan *commonv1.ProfileProgress // by profile, then rank
}

// NewProfiles makes Profiles that wait for nothing.
func NewProfiles(deps ProfileDeps) *Profiles {
	return &Profiles{deps: deps, asked: map[string]map[uint32]chan *commonv1.ProfileProgress{}}
}

// Observe takes an event of a trainer. It does not block.
func (p *Profiles) Observe(event *commonv1.Event) {
	progress := event.GetProfile()
	switch progress.GetState() {
	case commonv1.ProfileState_PROFILE_STATE_RECORDED, commonv1.ProfileState_PROFILE_STATE_FAILED:
	default:
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.asked[progress.GetProfileId()][event.GetRank()] <- progress: // nil, and never ready, for what is not waited for
	default:
	}
}

// Record has the ranks of an order that are on this node record a profile, waits
// for their traces, and says for a person what came of it. That none of the
// ranks is here is no error: they are on another node. It fails with
// [fault.NotFound] when no process of the run is here, with [fault.Unavailable]
// when one goes away, with [fault.Deadline] when there is no trace in time, and
// with [fault.Precondition] when the process says that it cannot.
func (p *Profiles) Record(ctx context.Context, order *commonv1.ProfileOrder, directive, traceparent string, deadline time.Time) (string, error) {
	if err := checkProfile(order); err != nil {
		return "", err
	}
	if !p.here(order) {
		return "none of the ranks is on this node", nil
	}
	dir, err := p.makeRoom(order.GetRunId(), p.owner(order.GetRunId()))
	if err != nil {
		return "", err
	}
	order = proto.CloneOf(order)
	order.Directory = dir
	sessions, waits, err := p.direct(order, directive, traceparent, deadline)
	if err != nil {
		return "", err
	}
	defer p.forget(order.GetProfileId())
	ctx, cancel := context.WithTimeout(ctx, deadline.Sub(p.deps.Clock()))
	defer cancel()
	group := life.NewGroup(ctx)
	results := make(chan error, len(sessions))
	for _, s := range sessions {
		group.Go(fmt.Sprintf("profile of rank %d", s.Rank), func(ctx context.Context) error {
			results <- p.wait(ctx, order, s, waits[s.Rank], traceparent)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	close(results)
	for result := range results {
		if err == nil {
			err = result
		}
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d recorded in %s", len(sessions), dir), nil
}

func checkProfile(order *commonv1.ProfileOrder) error {
	if err := vault.CheckRunID(order.GetRunId()); err != nil {
		return err
	}
	if err := vault.CheckCheckpointID(order.GetProfileId()); err != nil {
		return fault.New(fault.Invalid, "profile id %.140q is not 1 to 128 letters, digits, '_' or '-'", order.GetProfileId())
	}
	if n := order.GetSteps(); n < 1 || n > maxProfileSteps {
		return fault.New(fault.Invalid, "a profile of %d steps is asked for; want 1 to %d", n, maxProfileSteps)
	}
	return nil
}

// here tells whether a process on this node is meant; also without any of the
// run's, of which Direct has the better word.
func (p *Profiles) here(order *commonv1.ProfileOrder) bool {
	sessions := p.deps.Trainers.Trainers(order.GetRunId())
	return len(sessions) == 0 || len(order.GetRanks()) == 0 || slices.ContainsFunc(sessions, func(s *localapi.Session) bool {
		return slices.Contains(order.GetRanks(), s.Rank)
	})
}

// direct tells the processes. It holds the lock, so that no answer of theirs can
// come before it is waited for.
func (p *Profiles) direct(order *commonv1.ProfileOrder, directive, traceparent string, deadline time.Time) (
	[]*localapi.Session, map[uint32]chan *commonv1.ProfileProgress, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sessions, err := p.deps.Trainers.Direct(order.GetRunId(), &commonv1.Directive{
		DirectiveId: directive, Deadline: timestamppb.New(deadline), Traceparent: traceparent,
		Verb: &commonv1.Directive_Profile{Profile: order},
	}, order.GetRanks()...)
	if err != nil {
		return nil, nil, err
	}
	waits := make(map[uint32]chan *commonv1.ProfileProgress, len(sessions))
	for _, s := range sessions {
		waits[s.Rank] = make(chan *commonv1.ProfileProgress, 1)
	}
	p.asked[order.GetProfileId()] = waits
	return sessions, waits, nil
}

func (p *Profiles) forget(profileID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.asked, profileID)
}

// wait waits for one rank's trace. What the process does not say is said here.
func (p *Profiles) wait(ctx context.Context, order *commonv1.ProfileOrder, s *localapi.Session, answer <-chan *commonv1.ProfileProgress, traceparent string) error {
	session := s
	for {
		var silent error
		select {
		case progress := <-answer:
			return outcome(s, progress)
		case <-p.deps.Trainers.Gone(session):
			// A process that only lost its connection is soon back with another session.
			if session = p.back(ctx, session); session != nil {
				continue
			}
			silent = fault.New(fault.Unavailable, "trainer of run %s (pid %d) went away before it was profiled", s.RunID, s.PID)
		case <-ctx.Done():
			silent = fault.New(fault.Deadline, "run %s made no %d steps, or no trace of them, in time", s.RunID, order.GetSteps())
		}
		select {
		case progress := <-answer: // it was the last that the process said
			return outcome(s, progress)
		default:
			return p.fail(ctx, order, s, traceparent, silent)
		}
	}
}

// outcome is what a process answered.
func outcome(s *localapi.Session, progress *commonv1.ProfileProgress) error {
	if progress.GetState() == commonv1.ProfileState_PROFILE_STATE_FAILED {
		return fault.New(fault.Precondition, "rank %d of run %s: %s", s.Rank, s.RunID, progress.GetError())
	}
	return nil
}

// back gives the session that a process has a little later; nil when it has none.
func (p *Profiles) back(ctx context.Context, s *localapi.Session) *localapi.Session {
	select {
	case <-time.After(reconnectWait):
	case <-ctx.Done():
	}
	return successor(p.deps.Trainers, s)
}

func (p *Profiles) fail(ctx context.Context, order *commonv1.ProfileOrder, s *localapi.Session, traceparent string, err error) error {
	event := &commonv1.Event{
		EventId: uuid.Must(uuid.NewV7()).String(), Time: timestamppb.New(p.deps.Clock()),
		RunId: s.RunID, Attempt: s.Attempt, Rank: s.Rank, Traceparent: traceparent,
		Body: &commonv1.Event_Profile{Profile: &commonv1.ProfileProgress{
			ProfileId: order.GetProfileId(), State: commonv1.ProfileState_PROFILE_STATE_FAILED, Error: err.Error(),
		}},
	}
	if writeErr := p.deps.Events(context.WithoutCancel(ctx), s.RunID, event); writeErr != nil {
		p.deps.Log.Warn("write profile event", "run", s.RunID, "profile", order.GetProfileId(), "error", writeErr)
	}
	return err
}

// owner gives whose a run's processes are; nil: the agent's own user's.
func (p *Profiles) owner(runID string) *int {
	for _, s := range p.deps.Trainers.Trainers(runID) {
		return s.User()
	}
	return nil
}

// makeRoom gives the directory for a run's traces, which is its user's and nobody
// else's, and removes the oldest that are in it.
func (p *Profiles) makeRoom(runID string, user *int) (string, error) {
	dir := filepath.Join(p.deps.Dir, runID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make directory for profiles: %w", err)
	}
	if user != nil {
		// All in it is in directories of mode 0700: others pass to their own.
		if err := errors.Join(os.Chmod(p.deps.Dir, 0o711), os.Lchown(dir, *user, -1)); err != nil {
			return "", fault.WithHint(fault.New(fault.Precondition, "make directory for profiles of user %d: %w", *user, err),
				"run the agent of a node that several users train on as root")
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("list profiles: %w", err)
	}
	age := func(entry os.DirEntry) int64 {
		info, err := entry.Info()
		if err != nil {
			return 0 // gone already
		}
		return info.ModTime().UnixNano()
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return cmp.Compare(age(a), age(b)) })
	for _, old := range entries[:max(0, len(entries)-keptProfiles+1)] {
		if err := os.Remove(filepath.Join(dir, old.Name())); err != nil && !os.IsNotExist(err) {
			return "", fmt.Errorf("remove old profile: %w", err)
		}
	}
	return dir, nil
}
