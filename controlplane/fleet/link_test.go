package fleet

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"

	"github.com/prometheus/client_golang/prometheus"
)

// said is a bus in memory that keeps what it was told, as the real one does by
// position; bus.TestOwnWord holds the real one to the same.
type said struct {
	mu       sync.Mutex
	messages []bus.Message
	refuse   int           // so many Publish fail, after storing
	late     []bus.Message // on their way: stored before what is published next
}

func (s *said) Publish(_ context.Context, m bus.Message) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages, s.late = append(s.messages, s.late...), nil
	last, ok := s.last(m.Node)
	if !ok || behind(m.Position, last.Position) {
		s.messages = append(s.messages, m)
	}
	if s.refuse > 0 {
		s.refuse--
		return 0, fault.New(fault.Unavailable, "planted")
	}
	return uint64(len(s.messages)), nil
}

// behind tells whether a position comes after another.
func behind(p, other *agentv1.Position) bool {
	if p.GetEpoch() != other.GetEpoch() {
		return p.GetEpoch() > other.GetEpoch()
	}
	return p.GetSequence() > other.GetSequence()
}

func (s *said) LastOwn(_ context.Context, node string) (bus.Delivery, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.last(node)
	return bus.Delivery{Message: last}, ok, nil
}

func (s *said) last(node string) (bus.Message, bool) {
	for _, m := range slices.Backward(s.messages) {
		if m.Node == node {
			return m, true
		}
	}
	return bus.Message{}, false
}

// states gives what was said, "node state" or with the clock behind it.
func (s *said) states() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages {
		body := m.Batch.GetEvents()[0].GetNodeLink()
		text := fmt.Sprint(m.Node, " ", body.GetState().String()[len("LINK_STATE_"):])
		if body.ClockAheadSeconds != nil {
			text += fmt.Sprintf(" %+.1f", body.GetClockAheadSeconds())
		}
		all = append(all, text)
	}
	return all
}

// newLinks is a fleet with nothing but its linker, on a clock of the bubble.
func newLinks(t *testing.T, to *said) (f *Fleet, stop func()) {
	f = New(Config{RecordInterval: time.Second, LostAfter: time.Minute}, Deps{
		Bus: to, Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), Clock: time.Now,
	})
	group := life.NewGroup(t.Context())
	group.Go("links", f.links)
	return f, func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestLinkStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &said{}
		f, stop := newLinks(t, to)
		a, b := connect(t, f, "a"), connect(t, f, "b")
		_ = b
		time.Sleep(10 * time.Minute) // a stream that is open is heard
		a.release()
		time.Sleep(30 * time.Second)
		connect(t, f, "a").release() // it comes back and goes away at once: too fast to be said
		time.Sleep(50 * time.Second)
		time.Sleep(20 * time.Second)
		connect(t, f, "a")
		time.Sleep(time.Second)
		stop()
		want := map[string][]string{
			"a": {"a CONNECTED", "a DISCONNECTED", "a LOST", "a CONNECTED"}, "b": {"b CONNECTED"},
		}
		got := map[string][]string{}
		for _, s := range to.states() {
			got[s[:1]] = append(got[s[:1]], s)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("said (-want +got):\n%s", diff)
		}
	})
}

// TestLinkGoesOn restarts the control plane: what was said is not said again,
// a node that does not come back is given time, and positions only grow.
func TestLinkGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &said{refuse: 1}
		f, stop := newLinks(t, to)
		connect(t, f, "a")
		connect(t, f, "gone")
		time.Sleep(10 * time.Second)
		stop()
		time.Sleep(time.Hour)

		f, stop = newLinks(t, to)
		f.mu.Lock()
		f.nodes["gone"] = &record{node: &controlv1.Node{Name: "gone"}} // as recall has it
		f.mu.Unlock()
		connect(t, f, "a")
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if got := len(to.states()); got != 2 {
			t.Errorf("said after the restart: %v", to.states()[2:])
		}
		time.Sleep(20 * time.Second)
		stop()
		if diff := cmp.Diff([]string{"gone LOST"}, to.states()[2:]); diff != "" {
			t.Errorf("said later (-want +got):\n%s", diff)
		}
		last := map[string]*agentv1.Position{}
		for _, m := range to.messages {
			if !behind(m.Position, last[m.Node]) {
				t.Errorf("position of %s is %v behind %v", m.Node, m.Position, last[m.Node])
			}
			last[m.Node] = m.Position
		}
	})
}

// TestLinkTakesOver: a control plane speaks of a node whose last word, of the one
// that spoke of it before, is still on its way. Neither is taken for a repeat of
// the other, and nothing of the old one's is stored behind the new one's.
func TestLinkTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &said{}
		f, stop := newLinks(t, to)
		connect(t, f, "a")
		time.Sleep(10 * time.Second)
		stop()
		late := to.messages[0]
		late.Position = &agentv1.Position{Epoch: late.Position.GetEpoch(), Sequence: late.Position.GetSequence() + 1}
		to.late = append(to.late, late)

		f, stop = newLinks(t, to)
		f.mu.Lock()
		f.nodes["a"] = &record{node: &controlv1.Node{Name: "a"}}
		f.mu.Unlock()
		time.Sleep(2 * time.Minute)
		stop()
		if _, err := to.Publish(t.Context(), late); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"a CONNECTED", "a CONNECTED", "a LOST"}, to.states()); diff != "" {
			t.Errorf("said (-want +got):\n%s", diff)
		}
	})
}

func TestLinkClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &said{}
		f, stop := newLinks(t, to)
		connect(t, f, "a")
		beat := func(n int, ahead time.Duration) {
			for range n {
				time.Sleep(5 * time.Second)
				if err := f.Heartbeat("a", &agentv1.Heartbeat{Time: timestamppb.New(time.Now().Add(ahead))}); err != nil {
					t.Fatal(err)
				}
			}
		}
		beat(20, 40*time.Millisecond)   // healthy noise
		beat(1, -30*time.Second)        // a heartbeat that was held up
		beat(20, 3*time.Second)         // the clock is set wrong
		beat(20, 3300*time.Millisecond) // hardly other
		beat(20, 0)
		time.Sleep(10 * time.Second)
		stop()
		if diff := cmp.Diff([]string{"a CONNECTED", "a CONNECTED +3.0", "a CONNECTED +0.0"}, to.states()); diff != "" {
			t.Errorf("said (-want +got):\n%s", diff)
		}
	})
}
