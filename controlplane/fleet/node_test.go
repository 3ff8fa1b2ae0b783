package fleet

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// nodeState reads a node's state from the store; unspecified when it is not
// there.
func nodeState(t *testing.T, s *store.Store, name string) controlv1.NodeState {
	for _, node := range view(t, s, (*store.Tx).Nodes) {
		if node.Name == name {
			return node.State
		}
	}
	return controlv1.NodeState_NODE_STATE_UNSPECIFIED
}

func TestNodesAreRecorded(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	run(t, f)
	a := connect(t, f, "n1")
	beat := &agentv1.Heartbeat{SpooledEventFrames: 7, DroppedFrames: 3, DroppedEventFrames: 1, Collectors: map[string]string{"host": "ok"}}
	if err := f.Heartbeat("n1", beat); err != nil {
		t.Fatal(err)
	}
	var got *controlv1.Node
	testkit.Eventually(t, "the heartbeat in the store", func() bool {
		nodes := view(t, s, (*store.Tx).Nodes)
		if len(nodes) == 1 {
			got = nodes[0]
		}
		return got.GetSpooledEventFrames() == 7
	})
	want := &controlv1.Node{
		Name: "n1", State: controlv1.NodeState_NODE_STATE_CONNECTED, AgentVersion: "v1",
		Facts: map[string]string{"os": "linux"}, Collectors: beat.Collectors,
		SpooledEventFrames: 7, DroppedFrames: 3, DroppedEventFrames: 1,
	}
	if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&controlv1.Node{}, "last_seen")); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
	if got.LastSeen == nil {
		t.Error("nobody noted when the node was last seen")
	}
	a.release()
	testkit.Eventually(t, "the node to be disconnected", func() bool {
		return nodeState(t, s, "n1") == controlv1.NodeState_NODE_STATE_DISCONNECTED
	})
}

func TestHeartbeatOfAStrangerIsRefused(t *testing.T) {
	f := newFleet(t, openStore(t))
	if err := f.Heartbeat("n1", &agentv1.Heartbeat{}); !fault.Is(err, fault.NotFound) {
		t.Errorf("Heartbeat = %v, want a not-found fault", err)
	}
}

func TestNodesOfThePastAreDisconnected(t *testing.T) {
	s := openStore(t)
	update(t, s, func(tx *store.Tx) error {
		return tx.PutNode(&controlv1.Node{Name: "gone", State: controlv1.NodeState_NODE_STATE_CONNECTED, AgentVersion: "v0"})
	})
	f := newFleet(t, s)
	run(t, f)
	testkit.Eventually(t, "the node to be disconnected", func() bool {
		return nodeState(t, s, "gone") == controlv1.NodeState_NODE_STATE_DISCONNECTED
	})
	connect(t, f, "gone")
	testkit.Eventually(t, "the node to be back", func() bool {
		return nodeState(t, s, "gone") == controlv1.NodeState_NODE_STATE_CONNECTED
	})
}

func TestANewerSessionTakesOver(t *testing.T) {
	f := newFleet(t, openStore(t))
	older := connect(t, f, "n1")
	newer := connect(t, f, "n1")
	<-older.live.Done()
	if cause := context.Cause(older.live); !fault.Is(cause, fault.Exists) || fault.HintOf(cause) == "" {
		t.Errorf("the older session ended with %v, want an exists fault with a hint", cause)
	}
	older.release()
	if newer.live.Err() != nil || !f.anyHere([]string{"n1"}) {
		t.Error("the older session's end took the newer one with it")
	}
	if got := testutil.ToFloat64(f.agents); got != 1 {
		t.Errorf("agents = %v, want 1", got)
	}
	newer.release()
	if got := testutil.ToFloat64(f.agents); got != 0 || f.anyHere([]string{"n1"}) {
		t.Errorf("agents = %v after the last one left, want 0", got)
	}
}
