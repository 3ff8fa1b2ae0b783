package fleet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/internal/life"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	linkConnected    = commonv1.LinkState_LINK_STATE_CONNECTED
	linkDisconnected = commonv1.LinkState_LINK_STATE_DISCONNECTED
	linkLost         = commonv1.LinkState_LINK_STATE_LOST
)

const (
	// beatsKept is of how many heartbeats the clock is judged. A heartbeat that
	// was held up makes the node's clock look late, never early; so the
	// greatest difference of several is nearest to the truth.
	beatsKept = 12
	// clockMatters is by how much the clock must have moved against what was
	// said to be worth saying, in seconds; a quarter of what was said is enough
	// where that is more.
	clockMatters = 0.25
)

// Bus is where the fleet says which nodes it hears of, so that detection gets
// it as data, live and when it is replayed.
type Bus interface {
	// Publish makes a message durable; one whose position was stored is a
	// repeat and stored once.
	Publish(ctx context.Context, m bus.Message) (sequence uint64, err error)
	// LastOwn gives the last message that the control plane said of a node
	// itself; false when there is none.
	LastOwn(ctx context.Context, node string) (bus.Delivery, bool, error)
}

// skew is by how much a node's clock is ahead, as its last heartbeats show.
type skew struct {
	beats [beatsKept]float64
	count int
}

func (s *skew) add(seconds float64) {
	s.beats[s.count%beatsKept] = seconds
	s.count++
}

// ahead gives the seconds, or nil while too few heartbeats came to say.
func (s *skew) ahead() *float64 {
	if s.count < 3 {
		return nil
	}
	most := math.Inf(-1)
	for _, beat := range s.beats[:min(s.count, beatsKept)] {
		most = max(most, beat)
	}
	most = math.Round(most*1000) / 1000
	return &most
}

// linker says of every node whether it is heard, and by how much its clock is
// ahead, when that changes. What it said last is what the bus has: after a
// restart it goes on from there and says nothing twice. One goroutine uses it.
type linker struct {
	*Fleet
	started time.Time
	said    map[string]*link
	look    func(context.Context) (map[string]heard, error)
	failing bool
}

// link is what the bus has of one node, and what is to follow.
type link struct {
	position *agentv1.Position // of the last word of this linker; nil when there is none
	epoch    uint64            // of the last word before that; 0 when there is none
	last     *commonv1.NodeLink
	next     *bus.Message // on its way; the same is sent until it is stored
}

// links says how nodes are heard until ctx ends.
func (f *Fleet) links(ctx context.Context) error {
	l := &linker{Fleet: f, started: f.deps.Clock(), said: map[string]*link{}}
	l.look = l.known
	if f.deps.Self != "" {
		l.look = l.recorded
	}
	tick := time.NewTicker(min(max(f.config.LostAfter/8, 10*time.Millisecond), 5*time.Second))
	defer tick.Stop()
	for ctx.Err() == nil {
		began := time.Now()
		err := l.pass(ctx)
		// A pass looks at every node, and thousands of nodes may come one by one:
		// passes take a fifth of the time at most.
		life.Sleep(ctx, min(4*time.Since(began), time.Second))
		if err != nil && !l.failing && ctx.Err() == nil {
			f.deps.Log.Error("word of nodes that came or went waits; trying again", "error", err)
		}
		l.failing = err != nil
		select {
		case <-ctx.Done():
		case <-f.linkWake:
		case <-tick.C:
		}
	}
	return nil
}

// heard is what the fleet knows of one node now.
type heard struct {
	connected, left bool
	at              time.Time
	ahead           *float64
}

// known is what this control plane knows of the nodes.
func (l *linker) known(context.Context) (map[string]heard, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	nodes := make(map[string]heard, len(l.nodes))
	for name, r := range l.nodes {
		nodes[name] = heard{l.sessions[name] != nil, r.left, r.node.GetLastSeen().AsTime(), r.skew.ahead()}
	}
	return nodes, nil
}

// pass says once what is to be said.
func (l *linker) pass(ctx context.Context) error {
	nodes, err := l.look(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for name, h := range nodes {
		if err := l.say(ctx, name, h); err != nil {
			problems = append(problems, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(problems...)
}

// say says how a node is heard if the bus has something else.
func (l *linker) say(ctx context.Context, name string, h heard) error {
	k := l.said[name]
	if k == nil {
		last, ok, err := l.deps.Bus.LastOwn(ctx, name)
		if err != nil {
			return err
		}
		k = &link{}
		if ok {
			k.epoch, k.last = last.Position.GetEpoch(), lastLink(last)
		}
		l.said[name] = k
	}
	if k.next == nil {
		k.next = l.next(name, k, h)
	}
	if k.next == nil {
		return nil
	}
	if _, err := l.deps.Bus.Publish(ctx, *k.next); err != nil {
		return fmt.Errorf("say that node %s is %v: %w", name, k.next.Batch.GetEvents()[0].GetNodeLink().GetState(), err)
	}
	k.position, k.last, k.next = k.next.Position, k.next.Batch.GetEvents()[0].GetNodeLink(), nil
	return nil
}

// next gives the message that is to be said, or nil.
func (l *linker) next(name string, k *link, h heard) *bus.Message {
	now := l.deps.Clock()
	state := l.state(k.last.GetState(), h, now)
	if state == 0 || (state == k.last.GetState() && !moved(k.last, h.ahead)) {
		return nil
	}
	body := &commonv1.NodeLink{State: state, LastHeard: timestamppb.New(h.at), ClockAheadSeconds: h.ahead}
	if h.ahead == nil && k.last != nil {
		body.ClockAheadSeconds = k.last.ClockAheadSeconds
	}
	// Whoever speaks of a node does so in an epoch of its own. A word of the one
	// before it that is still on its way then never has the same position, which
	// would make this one a repeat; and it is one itself once this one is stored.
	position := &agentv1.Position{Epoch: max(uint64(max(now.UnixNano(), 1)), k.epoch+1), Sequence: 1}
	if k.position != nil {
		position = &agentv1.Position{Epoch: k.position.GetEpoch(), Sequence: k.position.GetSequence() + 1}
	}
	return &bus.Message{Node: name, Own: true, Position: position, Received: now, Batch: &agentv1.EventBatch{
		Events: []*commonv1.Event{{
			EventId: uuid.NewString(), Time: timestamppb.New(now), Node: name,
			Body: &commonv1.Event_NodeLink{NodeLink: body},
		}},
	}}
}

// state is how a node is heard. A node that was not heard since the control
// plane started keeps what was said of it, until it had the time to come back.
func (l *linker) state(was commonv1.LinkState, h heard, now time.Time) commonv1.LinkState {
	heard := h.at
	if l.started.After(heard) {
		heard = l.started
	}
	switch {
	case h.connected:
		return linkConnected
	case now.Sub(heard) >= l.config.LostAfter:
		return linkLost
	case h.left:
		return linkDisconnected
	}
	return was
}

// moved tells whether a clock differs from what was said of it.
func moved(last *commonv1.NodeLink, ahead *float64) bool {
	if ahead == nil {
		return false
	}
	if last == nil || last.ClockAheadSeconds == nil {
		return math.Abs(*ahead) >= clockMatters
	}
	return math.Abs(*ahead-last.GetClockAheadSeconds()) >= max(clockMatters, math.Abs(last.GetClockAheadSeconds())/4)
}

// lastLink is the last word in a message.
func lastLink(d bus.Delivery) *commonv1.NodeLink {
	var last *commonv1.NodeLink
	for _, event := range d.Batch.GetEvents() {
		if link := event.GetNodeLink(); link != nil {
			last = link
		}
	}
	return last
}
