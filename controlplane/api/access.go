package api

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Tokens is what programs come in with; access has them.
type Tokens interface {
	// Create makes a token and gives its secret.
	Create(tx *store.Tx, asked *controlv1.Token, lifetime time.Duration, creator string) (secret string, err error)
	// Revoke ends one.
	Revoke(tx *store.Tx, id string) (*controlv1.Token, error)
	// List lists them; those that have ended only when asked.
	List(tx *store.Tx, ended bool) ([]*controlv1.Token, error)
}

// LocalAdmin is the local administrator; access has one.
type LocalAdmin interface {
	// Reset gives the administrator another secret.
	Reset(tx *store.Tx) (secret string, err error)
}

// identities is the AccessService.
type identities struct {
	controlv1.UnimplementedAccessServiceServer
	store  *store.Store
	tokens Tokens
	admin  LocalAdmin
}

// WhoAmI says as whom the caller came in.
func (s *identities) WhoAmI(ctx context.Context, _ *controlv1.WhoAmIRequest) (*controlv1.WhoAmIResponse, error) {
	i := access.Of(ctx)
	if i == nil {
		return nil, fault.New(fault.Unauthenticated, "nobody calls")
	}
	return &controlv1.WhoAmIResponse{Caller: &controlv1.Caller{
		Kind: i.Kind, Id: i.ID, Name: i.Name, Auth: i.Auth, Roles: i.Roles, Projects: i.Projects, Expires: timestampOf(i.Expires),
	}}, nil
}

// CreateToken makes a token for a program.
func (s *identities) CreateToken(ctx context.Context, in *controlv1.CreateTokenRequest) (*controlv1.CreateTokenResponse, error) {
	out := &controlv1.CreateTokenResponse{Token: &controlv1.Token{Name: in.Name, Roles: in.Roles, Projects: in.Projects}}
	err := s.store.Update(ctx, func(tx *store.Tx) (err error) {
		out.Secret, err = s.tokens.Create(tx, out.Token, in.GetLifetime().AsDuration(), access.Of(ctx).Subject())
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ListTokens lists the tokens, the newest first.
func (s *identities) ListTokens(ctx context.Context, in *controlv1.ListTokensRequest) (*controlv1.ListTokensResponse, error) {
	out := &controlv1.ListTokensResponse{}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		out.Tokens, err = s.tokens.List(tx, in.Ended)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// RevokeToken makes a token good for nothing.
func (s *identities) RevokeToken(ctx context.Context, in *controlv1.RevokeTokenRequest) (*controlv1.RevokeTokenResponse, error) {
	if err := required("token_id", in.TokenId, "agentctl access tokens lists the tokens"); err != nil {
		return nil, err
	}
	out := &controlv1.RevokeTokenResponse{}
	err := s.store.Update(ctx, func(tx *store.Tx) (err error) {
		out.Token, err = s.tokens.Revoke(tx, in.TokenId)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ResetLocalAdmin gives the local administrator another secret.
func (s *identities) ResetLocalAdmin(ctx context.Context, _ *controlv1.ResetLocalAdminRequest) (*controlv1.ResetLocalAdminResponse, error) {
	out := &controlv1.ResetLocalAdminResponse{}
	err := s.store.Update(ctx, func(tx *store.Tx) (err error) {
		out.Secret, err = s.admin.Reset(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
