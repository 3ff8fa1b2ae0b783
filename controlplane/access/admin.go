package access

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"strings"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// adminPrefix begins the lasting secret of the local administrator.
const adminPrefix = "vgladmin_"

// Admin knows the local administrator by a secret that lasts: it is made with the
// records and shown once, and the store has its SHA-256 alone. It is good from this
// machine only. It is an [Authenticator], and safe for concurrent use.
type Admin struct{ store *store.Store }

// NewAdmin gives the administrator of a store.
func NewAdmin(s *store.Store) *Admin { return &Admin{s} }

// Ensure makes the administrator where there is none, and gives the secret then;
// else "".
func (a *Admin) Ensure(tx *store.Tx) (secret string, err error) {
	_, err = tx.LocalAdmin()
	if !fault.Is(err, fault.NotFound) {
		return "", err
	}
	return a.Reset(tx)
}

// Reset gives the administrator another secret; the one before is good for nothing
// then.
func (a *Admin) Reset(tx *store.Tx) (secret string, err error) {
	secret = adminPrefix + rand.Text()
	return secret, tx.PutLocalAdmin(hashOf(secret))
}

// Authenticate knows who brings the secret.
func (a *Admin) Authenticate(ctx context.Context, c Credential) (*Identity, error) {
	if !strings.HasPrefix(c.Bearer, adminPrefix) {
		return nil, nil
	}
	var hash []byte
	err := a.store.View(ctx, func(tx *store.Tx) (err error) {
		hash, err = tx.LocalAdmin()
		return err
	})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if !c.Source.IsLoopback() || subtle.ConstantTimeCompare(hash, hashOf(c.Bearer)) != 1 {
		return nil, fault.WithHint(fault.New(fault.Unauthenticated, "the administrator's secret is not that of this control plane"),
			"it is good on its machine only; agentctl access reset-admin makes another")
	}
	return localAdmin("secret"), nil
}

// localAdmin is the local administrator, by how they proved it.
func localAdmin(auth string) *Identity {
	return &Identity{
		Kind: "local", ID: "admin", Name: "local administrator", Auth: auth,
		Roles: []commonv1.Role{commonv1.Role_ROLE_ADMIN, commonv1.Role_ROLE_AUDITOR},
	}
}
