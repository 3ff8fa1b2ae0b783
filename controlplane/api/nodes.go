package api

import (
	"context"

	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// nodes is the NodeService.
type nodes struct {
	controlv1.UnimplementedNodeServiceServer
	store *store.Store
}

// ListNodes lists every node, by name.
func (s *nodes) ListNodes(ctx context.Context, _ *controlv1.ListNodesRequest) (*controlv1.ListNodesResponse, error) {
	out := &controlv1.ListNodesResponse{}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		out.Nodes, err = tx.Nodes()
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
