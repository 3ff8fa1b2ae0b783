package localapi

import (
	"context"

	"google.golang.org/grpc/stats"

	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// connection is one connection of a gRPC client. All JSON clients share one,
// which ends with the agent.
type connection struct{ _ byte }

type connectionKey struct{}

func connectionOf(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}

// connections tells which process went away without a watch that could end: a
// supervisor has none. It is a [stats.Handler].
type connections struct{ api *API }

// TagConn names a connection.
func (c connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}

// HandleConn sees a connection's end.
func (c connections) HandleConn(ctx context.Context, s stats.ConnStats) {
	if _, ended := s.(*stats.ConnEnd); ended && !c.api.stopping() {
		c.api.sessions.disconnected(connectionOf(ctx))
	}
}

// TagRPC does nothing.
func (c connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC does nothing.
func (c connections) HandleRPC(context.Context, stats.RPCStats) {}

// disconnected notes that the processes behind a connection are away, but for
// those that watch: the end of their watch says it.
func (t *Sessions) disconnected(c *connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.byID {
		if s.conn == c && s.watch == nil {
			t.leave(s)
		}
	}
	t.count()
}

// heard notes on which connection a session's process speaks. A supervisor that
// speaks is there: gRPC ends a connection that is idle for long, and dials anew.
func (t *Sessions) heard(s *Session, c *connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.conn = c
	if s.away && s.Kind == trainerv1.SessionKind_SESSION_KIND_SUPERVISOR && t.byID[s.ID] == s {
		s.away, s.gone = false, make(chan struct{})
		t.count()
	}
}

// present tells whether a process of a run is there, training or supervising.
func (t *Sessions) present(runID string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.byID {
		if s.RunID == runID && !s.away {
			return true
		}
	}
	return false
}
