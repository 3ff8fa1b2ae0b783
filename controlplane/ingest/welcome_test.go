package ingest

import (
	"context"
	"fmt"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

func TestWelcomeComesBeforeAnyCommand(t *testing.T) {
	p := start(t, t.TempDir())
	p.fleet.eager = true
	for i := range 50 {
		a, _ := p.connect(fmt.Sprint("n", i)) // wants Welcome first
		if a.hear().GetCommand() == nil {
			t.Fatal("no command came behind it")
		}
		a.hangUp()
	}
}

// mute is a bus that cannot say where a node's events go on.
type mute struct{ Bus }

func (mute) Last(context.Context, string) (*agentv1.Position, error) {
	return nil, fault.New(fault.Unavailable, "planted")
}

// TestNothingComesWithoutWelcome: an agent that cannot be told where its events go
// on is told why, and nothing that waited to be sent comes first: it would be
// taken for Welcome, or be lost.
func TestNothingComesWithoutWelcome(t *testing.T) {
	p := start(t, t.TempDir())
	p.fleet.eager = true
	p.service.deps.Bus = mute{p.bus}
	for i := range 50 {
		a := p.dial()
		a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{
			Hello: &agentv1.Hello{Revision: protocol.Revision, Node: fmt.Sprint("n", i)},
		}})
		first, err := a.stream.Recv()
		if err == nil {
			t.Fatalf("the session begins with %T", first.Message)
		}
		if err := fault.FromGRPC(protocol.EndOf(a.stream, err)); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("the session ends with %v, want that the bus is away", err)
		}
		a.hangUp()
	}
}

// broken is a bus that panics.
type broken struct{ Bus }

func (broken) Last(context.Context, string) (*agentv1.Position, error) { panic("planted") }

// TestAPanicBeforeWelcomeEndsTheSession: what waited to be sent fails, and the
// fleet knows that the session is over.
func TestAPanicBeforeWelcomeEndsTheSession(t *testing.T) {
	p := start(t, t.TempDir())
	x := &session{Service: p.service, stream: noStream{ctx: t.Context()}, node: "n1"}
	p.service.deps.Bus = broken{p.bus}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("nobody panics")
			}
		}()
		defer x.close()
		_, _ = x.open(&agentv1.Hello{Node: "n1"})
	}()
	if err := p.fleet.sender("n1")(&agentv1.ConnectResponse{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("something is sent still: %v", err)
	}
	if p.fleet.left != 1 {
		t.Errorf("the fleet knows of %d sessions that ended, want 1", p.fleet.left)
	}
}

// noStream is a stream on which nothing comes and goes.
type noStream struct {
	stream
	ctx context.Context
}

func (s noStream) Context() context.Context { return s.ctx }
