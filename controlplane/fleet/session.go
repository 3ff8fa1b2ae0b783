package fleet

import (
	"context"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"

	"github.com/vigil-ml/vigil/internal/fault"
)

// session is one agent's open stream.
type session struct {
	node   string
	send   func(*agentv1.ConnectResponse) error
	cancel context.CancelCauseFunc

	// Below here: guarded by Fleet.mu.
	sending bool            // a task is sending on it
	sent    map[string]bool // ids of the open commands that went out on it
}

// Connected makes a stream the one of its node: an older session of the node
// has its context cancelled, with a cause of kind [fault.Exists]. The returned
// context ends when ctx does or when a newer session takes over; release must
// be called when the stream has ended, and then send is not called any more
// than once. Send must be safe for concurrent use and is called from
// [Fleet.Run]; it may block, which holds up this node only.
func (f *Fleet) Connected(ctx context.Context, hello *agentv1.Hello, send func(*agentv1.ConnectResponse) error) (live context.Context, release func()) {
	live, cancel := context.WithCancelCause(ctx)
	mine := &session{node: hello.Node, send: send, cancel: cancel, sent: map[string]bool{}}
	f.mu.Lock()
	older := f.sessions[hello.Node]
	f.sessions[hello.Node] = mine
	f.connected(hello)
	f.agents.WithLabelValues().Set(float64(len(f.sessions)))
	f.mu.Unlock()
	if older != nil {
		older.cancel(fault.WithHint(
			fault.New(fault.Exists, "a newer session of node %s took over", hello.Node),
			"two agents with one node name take turns like this: give each machine its own name"))
	}
	f.nudge()
	f.nudgeLinks()
	return live, func() { f.release(mine) }
}

// release forgets a session unless a newer one took over.
func (f *Fleet) release(s *session) {
	s.cancel(context.Canceled)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sessions[s.node] != s {
		return
	}
	delete(f.sessions, s.node)
	f.disconnected(s.node)
	f.agents.WithLabelValues().Set(float64(len(f.sessions)))
	f.nudge()
	f.nudgeLinks()
}

// anyConnected tells whether at least one of the nodes has its agent here.
func (f *Fleet) anyConnected(nodes []string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, node := range nodes {
		if f.sessions[node] != nil {
			return true
		}
	}
	return false
}
