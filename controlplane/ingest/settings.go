package ingest

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// told is what agents are told of their collectors, until it changes.
type told struct {
	settings *agentv1.Settings
	change   context.CancelFunc                 // there is another
	whenever func(do func()) (stop func() bool) // has something done when there is
}

func newTold(collectors map[string]Collector) *told {
	changed, change := context.WithCancel(context.Background())
	return &told{
		settings: settingsOf(collectors), change: change,
		whenever: func(do func()) func() bool { return context.AfterFunc(changed, do) },
	}
}

// settingsOf is collectors as agents are told of them.
func settingsOf(collectors map[string]Collector) *agentv1.Settings {
	settings := &agentv1.Settings{Collectors: map[string]*agentv1.CollectorSettings{}}
	for kind, collector := range collectors {
		one := &agentv1.CollectorSettings{Off: collector.Off}
		if collector.Interval > 0 {
			one.Interval = durationpb.New(collector.Interval)
		}
		settings.Collectors[kind] = one
	}
	return settings
}

// SetCollectors has every agent, those that are connected at once, do with its
// collectors what is said here instead of what was said before. It gives false
// when that is the same. It is safe for concurrent use.
func (s *Service) SetCollectors(collectors map[string]Collector) bool {
	next := newTold(collectors)
	for {
		before := s.told.Load()
		if proto.Equal(before.settings, next.settings) {
			return false
		}
		if s.told.CompareAndSwap(before, next) {
			before.change()
			return true
		}
	}
}

// follow tells the agent what is set, whenever that is something else than it
// knows, until the session is closed. Nothing waits for it meanwhile.
func (x *session) follow(known *told) {
	x.sending.Lock()
	defer x.sending.Unlock()
	if x.closed {
		return
	}
	x.unfollow = known.whenever(func() {
		next := x.told.Load()
		response := &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Settings{Settings: next.settings}}
		if x.send(response) == nil {
			x.resent.Inc()
			x.follow(next)
		}
	})
}
