package fleet

import (
	"context"
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Watch says on the bus which nodes are heard of, by what all control planes
// recorded, until ctx ends. One of them does it at a time; where there is only
// one, [Fleet.Run] does it.
func (f *Fleet) Watch(ctx context.Context) error { return f.links(ctx) }

// recorded is what all control planes know of the nodes. Those that were
// connected to one that is gone are disconnected.
func (l *linker) recorded(ctx context.Context) (map[string]heard, error) {
	var nodes, orphans []*controlv1.Node
	err := l.deps.Store.View(ctx, func(tx *store.Tx) (err error) {
		nodes, orphans, err = withReplicas(tx)
		return err
	})
	if err == nil && len(orphans) > 0 {
		err = l.deps.Store.Update(ctx, func(tx *store.Tx) error {
			if nodes, orphans, err = withReplicas(tx); err != nil {
				return err
			}
			for _, node := range orphans {
				node.State, node.Replica = controlv1.NodeState_NODE_STATE_DISCONNECTED, ""
				if err := tx.PutNode(node); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	all := make(map[string]heard, len(nodes))
	for _, node := range nodes {
		connected := node.GetState() == controlv1.NodeState_NODE_STATE_CONNECTED
		all[node.GetName()] = heard{connected, !connected, node.GetLastSeen().AsTime(), node.ClockAheadSeconds}
	}
	return all, nil
}

// withReplicas gives the nodes, and those of them that count as connected to a
// control plane that is not there.
func withReplicas(tx *store.Tx) (nodes, orphans []*controlv1.Node, err error) {
	if nodes, err = tx.Nodes(); err != nil {
		return nil, nil, err
	}
	replicas, err := tx.Replicas()
	if err != nil {
		return nil, nil, err
	}
	there := map[string]bool{}
	for _, r := range replicas {
		there[r.ID] = true
	}
	for _, node := range nodes {
		if node.GetState() == controlv1.NodeState_NODE_STATE_CONNECTED && !there[node.GetReplica()] {
			orphans = append(orphans, node)
		}
	}
	return nodes, orphans, nil
}
