package controlplane_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/protocol"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// chaosAgent is an agent that speaks the real protocol, trains nothing, and
// keeps account: what it sent, what was acknowledged, what it was told to do.
type chaosAgent struct {
	t       *testing.T
	node    string
	targets []string // addresses of the replicas
	stays   bool     // where it is, until it is sent away
	member  pki.Member

	mu       sync.Mutex
	frames   []*agentv1.Frame // its spool; nothing is ever dropped from it
	acked    uint64
	commands map[string]int // how often each came, by idempotency key
	sessions int
	more     chan struct{} // holds one token: there may be something to send
}

func newChaosAgent(t *testing.T, node string, targets []string) *chaosAgent {
	return &chaosAgent{t: t, node: node, targets: targets, commands: map[string]int{}, more: make(chan struct{}, 1)}
}

// spool adds a frame of events of one run.
func (a *chaosAgent) spool(run string, attempt uint32, bodies ...*commonv1.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	sequence := uint64(len(a.frames) + 1)
	for i, e := range bodies {
		e.EventId = fmt.Sprintf("%s-%d-%d", a.node, sequence, i)
		e.Time, e.RunId, e.Attempt, e.Node = timestamppb.Now(), run, attempt, a.node
	}
	a.frames = append(a.frames, &agentv1.Frame{
		Class: agentv1.FrameClass_FRAME_CLASS_EVENTS, Position: &agentv1.Position{Epoch: 1, Sequence: sequence},
		Payload: &agentv1.Frame_Events{Events: &agentv1.EventBatch{RunId: run, Events: bodies}},
	})
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// train makes runs until the time is over.
func (a *chaosAgent) train(ctx context.Context, until time.Time, pace time.Duration) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	a.trainUntil(ctx, pace)
}

// trainUntil makes runs until ctx ends, and then goes on to the end of the last
// one: each meets a NaN, is launched again, and makes all its steps.
func (a *chaosAgent) trainUntil(ctx context.Context, pace time.Duration) {
	const nan, last = 20, 40
	for n := 0; ctx.Err() == nil; n++ {
		run := fmt.Sprintf("%s-run%d", a.node, n)
		for attempt, begin := range []int64{1, nan} {
			a.spool(run, uint32(attempt), &commonv1.Event{Body: &commonv1.Event_TrainerRegistered{
				TrainerRegistered: &commonv1.TrainerRegistered{WorldSize: 1, TotalSteps: last}}})
			for step := begin; step <= last && life.Sleep(a.t.Context(), pace); step++ {
				if attempt == 0 && step == nan {
					a.spool(run, 0, &commonv1.Event{Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{
						Step: step, Quantity: commonv1.Quantity_QUANTITY_GRADIENT, Tensor: "w", NanCount: 1, TensorSize: 8, ParametersIntact: true}}},
						&commonv1.Event{Body: &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{
							Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE, Restarting: true}}})
					break
				}
				loss := 2 + 1/float64(step)
				a.spool(run, uint32(attempt), &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: step, Loss: &loss}}})
			}
		}
		a.spool(run, 1, &commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{
			Outcome: commonv1.Outcome_OUTCOME_SUCCEEDED, Step: last}}})
	}
}

// run sends what is spooled to one replica or another until ctx ends.
func (a *chaosAgent) run(ctx context.Context) {
	for ctx.Err() == nil {
		_ = a.session(ctx, a.targets[rand.IntN(len(a.targets))])
		life.Sleep(ctx, 50*time.Millisecond+rand.N(150*time.Millisecond))
	}
}

func (a *chaosAgent) session(ctx context.Context, target string) error {
	if a.member.Cert == nil {
		var err error
		if a.member, err = pki.JoinHere(ctx, target, a.node); err != nil {
			return err
		}
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(credentials.NewTLS(a.member.TLS())))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := agentv1.NewAgentServiceClient(conn).Connect(ctx)
	if err != nil {
		return err
	}
	hello := &agentv1.Hello{Revision: protocol.Revision, Node: a.node, BootId: "b", Version: "test", MaxMessageBytes: 4 << 20}
	if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	welcome := first.GetWelcome()
	if welcome == nil {
		a.t.Errorf("%s: a session begins with %T, not with Welcome", a.node, first.Message)
		return nil
	}
	a.mu.Lock()
	a.sessions++
	sent := welcome.GetEvents().GetSequence()
	if sent < a.acked {
		a.t.Errorf("%s: session %s goes on behind %d frames of %d that were acknowledged: they are lost",
			a.node, welcome.GetSessionId(), sent, a.acked)
	}
	a.mu.Unlock()
	received := make(chan error, 1)
	group := life.NewGroup(ctx)
	group.Go("receive", func(context.Context) error { received <- a.receive(stream); return nil })
	err = a.send(ctx, stream, sent, received)
	cancel()
	return cmpErr(err, group.Wait())
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// send sends what lies behind a position, now and then a heartbeat, and now and
// then it leaves, as behind a load balancer.
func (a *chaosAgent) send(ctx context.Context, stream agentv1.AgentService_ConnectClient, sent uint64, received <-chan error) error {
	leave := time.NewTimer(2*time.Second + rand.N(6*time.Second))
	defer leave.Stop()
	if a.stays {
		leave.Stop()
	}
	beat := time.NewTicker(500 * time.Millisecond)
	defer beat.Stop()
	for {
		for _, frame := range a.behind(sent) {
			if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: frame}}); err != nil {
				return err
			}
			sent = frame.GetPosition().GetSequence()
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-received:
			return err
		case <-leave.C:
			return nil
		case <-a.more:
		case <-beat.C:
			beat := &agentv1.Heartbeat{Time: timestamppb.Now()}
			if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Heartbeat{Heartbeat: beat}}); err != nil {
				return err
			}
		}
	}
}

func (a *chaosAgent) behind(sent uint64) []*agentv1.Frame {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.frames[min(int(sent), len(a.frames)):])
}

func (a *chaosAgent) receive(stream agentv1.AgentService_ConnectClient) error {
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := response.Message.(type) {
		case *agentv1.ConnectResponse_Ack:
			a.mu.Lock()
			a.acked = max(a.acked, m.Ack.GetPosition().GetSequence())
			a.mu.Unlock()
		case *agentv1.ConnectResponse_Command:
			a.obey(m.Command)
		}
	}
}

// obey does a command once, which is to say that it did.
func (a *chaosAgent) obey(c *agentv1.Command) {
	a.mu.Lock()
	a.commands[c.GetIdempotencyKey()]++
	again := a.commands[c.GetIdempotencyKey()] > 1
	a.mu.Unlock()
	if again {
		return
	}
	run := cmp.Or(c.GetCheckpoint().GetRunId(), c.GetCheckpointTask().GetRunId(), c.GetJudgement().GetRunId())
	a.spool(run, 0, &commonv1.Event{Body: &commonv1.Event_CommandResult{CommandResult: &commonv1.CommandResult{
		CommandId: c.GetCommandId(), Stage: commonv1.CommandStage_COMMAND_STAGE_DONE}}})
}

// settled tells whether all that was spooled is acknowledged.
func (a *chaosAgent) settled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.acked == uint64(len(a.frames))
}
