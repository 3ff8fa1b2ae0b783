package api

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// nodes is the NodeService.
type nodes struct {
	controlv1.UnimplementedNodeServiceServer
	store   *store.Store
	history History
}

const hintNodes = "agentctl get nodes lists the nodes"

// findNode refuses a node that there is not.
func findNode(tx *store.Tx, name string) (*controlv1.Node, error) {
	node, err := tx.Node(name)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no node %q", name), hintNodes)
	}
	return node, err
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

// GetNode shows one node with what is wrong with it, its incidents and its runs.
func (s *nodes) GetNode(ctx context.Context, in *controlv1.GetNodeRequest) (*controlv1.GetNodeResponse, error) {
	if err := required("node", in.Node, hintNodes); err != nil {
		return nil, err
	}
	out := &controlv1.GetNodeResponse{}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		if out.Node, err = findNode(tx, in.Node); err != nil {
			return err
		}
		if out.Problems, err = tx.NodeProblems(in.Node); err != nil {
			return err
		}
		if out.Incidents, err = tx.NodeIncidents(in.Node, perRunList); err != nil {
			return err
		}
		for i, incident := range out.Incidents {
			if out.Incidents[i], err = tx.Incident(incident.IncidentId); err != nil {
				return err
			}
		}
		open, err := tx.OpenRuns()
		out.Runs = slices.DeleteFunc(open, func(r *controlv1.Run) bool { return !slices.Contains(r.Nodes, in.Node) })
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// WatchNodeEvents streams a node's own events from the first that is kept on.
func (s *nodes) WatchNodeEvents(in *controlv1.WatchNodeEventsRequest, out grpc.ServerStreamingServer[controlv1.WatchNodeEventsResponse]) error {
	if err := required("node", in.Node, hintNodes); err != nil {
		return err
	}
	err := s.store.View(out.Context(), func(tx *store.Tx) error {
		_, err := findNode(tx, in.Node)
		return err
	})
	if err != nil {
		return err
	}
	if err := out.Send(&controlv1.WatchNodeEventsResponse{}); err != nil {
		return err
	}
	return s.history.NodeHistory(out.Context(), in.Node, in.Follow, func(frame bus.Delivery) error {
		for _, event := range frame.Batch.GetEvents() {
			response := &controlv1.WatchNodeEventsResponse{
				Event: &controlv1.RunEvent{Sequence: frame.Sequence, Event: event}, Received: timestamppb.New(frame.Received),
			}
			if err := out.Send(response); err != nil {
				return err
			}
		}
		return nil
	})
}
