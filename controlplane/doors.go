package controlplane

import (
	"time"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/localkey"
)

// doors is what decides who comes in.
type doors struct {
	guard  *access.Guard
	tokens *access.Tokens
}

// openDoors makes the guard, and leaves the local administrator's secret for
// this user's own programs on this machine until the control plane ends.
func (c *controlPlane) openDoors(services *life.Group, listeners map[string]string) (*doors, error) {
	local, secret := access.NewLocal()
	take, err := localkey.Leave(c.config.Access.LocalDir, listeners["api"], localkey.Operator, secret)
	if err != nil {
		return nil, err
	}
	services.Go("local secret", life.AtEnd(take))
	d := &doors{tokens: access.NewTokens(c.store, time.Now)}
	d.guard = access.NewGuard(c.config.Access, access.Deps{
		Store: c.store, Audit: c.audit, Authenticators: []access.Authenticator{local, d.tokens},
		Log: c.log, Metrics: c.metrics, Clock: time.Now,
	})
	return d, nil
}
