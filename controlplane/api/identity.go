package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Nodes lets nodes in, and keeps them out; authority does.
type Nodes interface {
	// CreateJoinToken makes what a node joins with.
	CreateJoinToken(tx *store.Tx, node string, lifetime time.Duration, uses int32) (secret string, expires time.Time, err error)
	// List gives the certificates that have not expired.
	List(tx *store.Tx) ([]*controlv1.NodeCertificate, error)
	// Revoke makes what a node has good for nothing.
	Revoke(tx *store.Tx, node string) (int32, error)
}

// nodeIdentities is the IdentityService.
type nodeIdentities struct {
	controlv1.UnimplementedIdentityServiceServer
	store   *store.Store
	nodes   Nodes
	address string
}

// CreateJoinToken makes a token with which the agent of a new node joins.
func (s *nodeIdentities) CreateJoinToken(ctx context.Context, in *controlv1.CreateJoinTokenRequest) (*controlv1.CreateJoinTokenResponse, error) {
	out := &controlv1.CreateJoinTokenResponse{Address: s.address}
	err := s.store.Update(ctx, func(tx *store.Tx) error {
		secret, expires, err := s.nodes.CreateJoinToken(tx, in.Node, in.GetLifetime().AsDuration(), in.Uses)
		out.Secret, out.Expires = secret, timestamppb.New(expires)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ListIdentities lists the nodes' certificates that have not expired.
func (s *nodeIdentities) ListIdentities(ctx context.Context, _ *controlv1.ListIdentitiesRequest) (*controlv1.ListIdentitiesResponse, error) {
	out := &controlv1.ListIdentitiesResponse{}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		out.Certificates, err = s.nodes.List(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// RevokeNode makes the certificates of a node good for nothing.
func (s *nodeIdentities) RevokeNode(ctx context.Context, in *controlv1.RevokeNodeRequest) (*controlv1.RevokeNodeResponse, error) {
	if err := required("node", in.Node, "agentctl identities list lists them"); err != nil {
		return nil, err
	}
	out := &controlv1.RevokeNodeResponse{}
	err := s.store.Update(ctx, func(tx *store.Tx) (err error) {
		out.Certificates, err = s.nodes.Revoke(tx, in.Node)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
