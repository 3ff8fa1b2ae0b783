// Package trainertest holds a small agent for tests of what speaks with one:
// a real gRPC server on a real unix socket that keeps events and checkpoints.
package trainertest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// Agent is a fake agent. Set its fields before Start. All methods are safe for
// concurrent use.
type Agent struct {
	trainerv1.UnimplementedTrainerServiceServer

	Socket string        // path of the socket
	Hold   time.Duration // as Register answers; default 10 s
	// OnEvent sees every event that is reported, before the report is answered.
	OnEvent func(*commonv1.Event)
	// OnRequest answers RequestCheckpoint; nil answers fault.NotFound.
	OnRequest func(*trainerv1.RequestCheckpointRequest) (checkpointID string, err error)
	// PassedOver is what ResolveResume says was newer and not fit.
	PassedOver []*trainerv1.PassedOver
	// OnStanding, unless nil, answers GetStanding; nil answers from the commits,
	// which count as verified.
	OnStanding func(*trainerv1.GetStandingRequest) *trainerv1.GetStandingResponse
	// OnReport, unless nil, may refuse a report before it is kept.
	OnReport func() error
	// OnCommit, unless nil, gives the error that a commit is answered with, and
	// whether the checkpoint is kept all the same, as when an answer is lost.
	OnCommit func() (kept bool, err error)

	dir    string
	mu     sync.Mutex
	stop   func()
	hang   chan struct{}
	serial int
	kept   state
}

// state is what a test may look at.
type state struct {
	registrations []*trainerv1.RegisterRequest
	events        []*commonv1.Event
	ids           map[string]bool // of events
	dropped       int64
	commits       []*trainerv1.CommitCheckpointRequest
	last          map[string]*trainerv1.CommitCheckpointRequest // by run
	next          map[string]uint32                             // attempt, by run
	staging       map[string]string                             // directory by checkpoint
	sessions      map[string]*session
}

type session struct {
	request    *trainerv1.RegisterRequest
	directives chan *commonv1.Directive
	gone       chan struct{}
}

// New makes an agent with a socket of its own; Start starts it.
func New(t testing.TB) *Agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "vigil") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{Socket: filepath.Join(dir, "agent.sock"), Hold: 10 * time.Second, dir: dir}
	a.kept = state{
		staging: map[string]string{}, sessions: map[string]*session{}, last: map[string]*trainerv1.CommitCheckpointRequest{},
		next: map[string]uint32{}, ids: map[string]bool{},
	}
	t.Cleanup(func() {
		a.Stop()
		_ = os.RemoveAll(dir)
	})
	return a
}

// Start serves; after Stop it stands for a restarted agent, which knows no
// session but has all events and checkpoints.
func (a *Agent) Start(t testing.TB) {
	t.Helper()
	_ = os.Remove(a.Socket)
	listener, err := net.Listen("unix", a.Socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	trainerv1.RegisterTrainerServiceServer(server, a)
	group := life.NewGroup(context.Background())
	group.Go("agent", func(context.Context) error { return server.Serve(listener) })
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept.sessions = map[string]*session{}
	a.hang = nil
	a.stop = func() {
		server.Stop()
		_ = group.Wait()
	}
}

// Stop ends the agent as a crash would: calls in flight break off.
func (a *Agent) Stop() {
	a.Resume()
	a.mu.Lock()
	stop := a.stop
	a.stop = nil
	a.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// Hang has every report wait until Resume, Stop or the caller's deadline.
func (a *Agent) Hang() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hang = make(chan struct{})
}

// Resume ends Hang.
func (a *Agent) Resume() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hang != nil {
		close(a.hang)
		a.hang = nil
	}
}

// Direct gives a directive to every training process of its run and tells how
// many there are.
func (a *Agent) Direct(directive *commonv1.Directive) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	told := 0
	for _, s := range a.kept.sessions {
		if s.request.GetKind() == trainerv1.SessionKind_SESSION_KIND_TRAINER {
			s.directives <- directive
			told++
		}
	}
	return told
}

// Order directs a checkpoint.
func (a *Agent) Order(id string, order *commonv1.CheckpointOrder) int {
	return a.Direct(&commonv1.Directive{DirectiveId: id, Verb: &commonv1.Directive_Checkpoint{Checkpoint: order}})
}

// Events gives what was reported so far, in order.
func (a *Agent) Events() []*commonv1.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.kept.events)
}

// Dropped gives the drops that the processes told of.
func (a *Agent) Dropped() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.kept.dropped
}

// Registrations gives every Register so far, in order.
func (a *Agent) Registrations() []*trainerv1.RegisterRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.kept.registrations)
}

// Commits gives the checkpoints that were committed, in order.
func (a *Agent) Commits() []*trainerv1.CommitCheckpointRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.kept.commits)
}

// Directory gives the directory of a checkpoint.
func (a *Agent) Directory(checkpointID string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.kept.staging[checkpointID]
}

// Register opens a session.
func (a *Agent) Register(_ context.Context, r *trainerv1.RegisterRequest) (*trainerv1.RegisterResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept.registrations = append(a.kept.registrations, r)
	for id, old := range a.kept.sessions {
		if old.request.GetRank() == r.GetRank() && old.request.GetKind() == r.GetKind() && old.request.GetRunId() == r.GetRunId() {
			close(old.gone)
			delete(a.kept.sessions, id)
		}
	}
	a.serial++
	id := fmt.Sprintf("session-%d", a.serial)
	a.kept.sessions[id] = &session{request: r, directives: make(chan *commonv1.Directive, 32), gone: make(chan struct{})}
	answer := &trainerv1.RegisterResponse{SessionId: id, Node: "test", Hold: durationpb.New(a.Hold)}
	if r.GetKind() == trainerv1.SessionKind_SESSION_KIND_SUPERVISOR {
		answer.NextAttempt = a.kept.next[r.GetRunId()]
	} else {
		a.kept.saw(r.GetRunId(), r.GetAttempt())
	}
	return answer, nil
}

// take keeps the events that it has not got yet and gives them.
func (s *state) take(events []*commonv1.Event) []*commonv1.Event {
	fresh := slices.DeleteFunc(slices.Clone(events), func(e *commonv1.Event) bool { return s.ids[e.GetEventId()] })
	for _, event := range fresh {
		s.ids[event.GetEventId()] = true
		s.saw(event.GetRunId(), event.GetAttempt())
	}
	s.events = append(s.events, fresh...)
	return fresh
}

// saw notes that a run had an attempt.
func (s *state) saw(run string, attempt uint32) { s.next[run] = max(s.next[run], attempt+1) }

// Report keeps events, each id once: a process whose answer was lost sends the
// same ones again.
func (a *Agent) Report(ctx context.Context, r *trainerv1.ReportRequest) (*trainerv1.ReportResponse, error) {
	if _, err := a.find(r.GetSessionId()); err != nil {
		return nil, err
	}
	a.mu.Lock()
	hang := a.hang
	a.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return nil, fault.GRPC(ctx.Err())
		}
	}
	if a.OnReport != nil {
		if err := a.OnReport(); err != nil {
			return nil, fault.GRPC(err)
		}
	}
	a.mu.Lock()
	fresh := a.kept.take(r.GetEvents())
	a.kept.dropped += r.GetDropped()
	a.mu.Unlock()
	if a.OnEvent != nil {
		for _, event := range fresh {
			a.OnEvent(event)
		}
	}
	return &trainerv1.ReportResponse{}, nil
}

// WatchDirectives streams directives.
func (a *Agent) WatchDirectives(r *trainerv1.WatchDirectivesRequest, out grpc.ServerStreamingServer[trainerv1.WatchDirectivesResponse]) error {
	s, err := a.find(r.GetSessionId())
	if err != nil {
		return err
	}
	if err := out.Send(&trainerv1.WatchDirectivesResponse{}); err != nil {
		return err
	}
	for {
		select {
		case directive := <-s.directives:
			if err := out.Send(&trainerv1.WatchDirectivesResponse{Directive: directive}); err != nil {
				return err
			}
		case <-s.gone:
			return fault.GRPC(fault.New(fault.Precondition, "watch directives: the rank registered again"))
		case <-out.Context().Done():
			return nil
		}
	}
}

// BeginCheckpoint gives a directory.
func (a *Agent) BeginCheckpoint(_ context.Context, r *trainerv1.BeginCheckpointRequest) (*trainerv1.BeginCheckpointResponse, error) {
	if _, err := a.find(r.GetSessionId()); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.serial++
	id := r.GetCheckpointId()
	if id == "" {
		id = fmt.Sprintf("own-%d", a.serial)
	}
	dir := filepath.Join(a.dir, fmt.Sprintf("%s-%d", id, a.serial))
	a.kept.staging[id] = dir
	return &trainerv1.BeginCheckpointResponse{CheckpointId: id, StagingDirectory: dir}, os.Mkdir(dir, 0o700)
}

// CommitCheckpoint keeps a checkpoint.
func (a *Agent) CommitCheckpoint(_ context.Context, r *trainerv1.CommitCheckpointRequest) (*trainerv1.CommitCheckpointResponse, error) {
	s, err := a.find(r.GetSessionId())
	if err != nil {
		return nil, err
	}
	if a.OnCommit != nil {
		kept, failure := a.OnCommit()
		if !kept {
			return nil, fault.GRPC(failure)
		}
		err = fault.GRPC(failure)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept.commits = append(a.kept.commits, r)
	a.kept.last[s.request.GetRunId()] = r
	return &trainerv1.CommitCheckpointResponse{State: commonv1.CheckpointState_CHECKPOINT_STATE_STAGED}, err
}

// ResolveResume gives the run's last checkpoint that was committed.
func (a *Agent) ResolveResume(_ context.Context, r *trainerv1.ResolveResumeRequest) (*trainerv1.ResolveResumeResponse, error) {
	s, err := a.find(r.GetSessionId())
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	last := a.kept.last[s.request.GetRunId()]
	if last == nil {
		return &trainerv1.ResolveResumeResponse{PassedOver: a.PassedOver}, nil
	}
	return &trainerv1.ResolveResumeResponse{PassedOver: a.PassedOver, Checkpoint: &commonv1.CheckpointRef{
		CheckpointId: last.GetCheckpointId(), Directory: a.kept.staging[last.GetCheckpointId()],
		Metadata: last.GetMetadata(), Health: commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY,
	}}, nil
}

// RequestCheckpoint does what the test says.
func (a *Agent) RequestCheckpoint(_ context.Context, r *trainerv1.RequestCheckpointRequest) (*trainerv1.RequestCheckpointResponse, error) {
	if _, err := a.find(r.GetSessionId()); err != nil {
		return nil, err
	}
	if a.OnRequest == nil {
		return nil, fault.GRPC(fault.New(fault.NotFound, "no trainer of the run is registered"))
	}
	id, err := a.OnRequest(r)
	return &trainerv1.RequestCheckpointResponse{CheckpointId: id}, fault.GRPC(err)
}

// GetStanding does what the test says.
func (a *Agent) GetStanding(_ context.Context, r *trainerv1.GetStandingRequest) (*trainerv1.GetStandingResponse, error) {
	s, err := a.find(r.GetSessionId())
	if err != nil {
		return nil, err
	}
	if a.OnStanding != nil {
		return a.OnStanding(r), nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out := &trainerv1.GetStandingResponse{}
	if last := a.kept.last[s.request.GetRunId()]; last != nil {
		out.Last = standing(last)
	}
	for _, commit := range a.kept.commits {
		if commit.GetCheckpointId() == r.GetCheckpointId() {
			out.Asked = standing(commit)
		}
	}
	return out, nil
}

func standing(commit *trainerv1.CommitCheckpointRequest) *trainerv1.CheckpointStanding {
	return &trainerv1.CheckpointStanding{
		CheckpointId: commit.GetCheckpointId(), Step: commit.GetMetadata().GetStep(),
		State: commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED,
	}
}

func (a *Agent) find(id string) (*session, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.kept.sessions[id]
	if !ok {
		return nil, fault.GRPC(fault.New(fault.NotFound, "there is no session %s", id))
	}
	return s, nil
}
