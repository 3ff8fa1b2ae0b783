package fleet

import (
	"context"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"

	"github.com/vigil-ml/vigil/controlplane/store"
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
	if f.deps.TookOver != nil {
		f.deps.TookOver(hello.Node)
	}
	f.nudge()
	f.nudgeLinks()
	return live, func() { f.release(mine) }
}

// Elsewhere ends the session of a node whose agent has come to another control
// plane.
func (f *Fleet) Elsewhere(node string) {
	f.mu.Lock()
	older := f.sessions[node]
	f.mu.Unlock()
	if older != nil {
		older.cancel(fault.New(fault.Exists, "a newer session of node %s took over at another control plane", node))
	}
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

// anyConnected tells whether at least one of the nodes has its agent here, or at
// another control plane.
func (f *Fleet) anyConnected(tx *store.Tx, nodes []string) (bool, error) {
	if f.anyHere(nodes) {
		return true, nil
	}
	if f.deps.Self == "" {
		return false, nil
	}
	for _, name := range nodes {
		node, err := tx.Node(name)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return false, err
		}
		if node.GetState() == controlv1.NodeState_NODE_STATE_CONNECTED {
			return true, nil
		}
	}
	return false, nil
}

func (f *Fleet) anyHere(nodes []string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, node := range nodes {
		if f.sessions[node] != nil {
			return true
		}
	}
	return false
}
