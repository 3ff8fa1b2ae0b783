package controlplane

import (
	"context"
	"errors"
	"time"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/authority"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/localkey"
)

// doors is what decides who comes in.
type doors struct {
	guard     *access.Guard
	tokens    *access.Tokens
	authority *authority.Authority
}

// openDoors makes the guard of operators and the authority of nodes. It leaves
// what this user's own programs on this machine come in with, until the control
// plane ends: the local administrator's secret, and a join token.
func (c *controlPlane) openDoors(ctx context.Context, services *life.Group, listeners map[string]string) (*doors, error) {
	d := &doors{tokens: access.NewTokens(c.store, time.Now)}
	local, secret := access.NewLocal()
	d.guard = access.NewGuard(c.config.Access, access.Deps{
		Store: c.store, Audit: c.audit, Authenticators: []access.Authenticator{local, d.tokens},
		Log: c.log, Metrics: c.metrics, Clock: time.Now,
	})
	var err error
	d.authority, err = authority.Open(c.config.Authority, authority.Deps{Store: c.store, Audit: c.audit, Log: c.log, Clock: time.Now})
	if err != nil {
		return nil, err
	}
	joinToken, err := d.authority.LocalJoinToken(ctx)
	if err != nil {
		return nil, err
	}
	dir := c.config.Access.LocalDir
	takeSecret, err := localkey.Leave(dir, listeners["api"], localkey.Operator, secret)
	if err != nil {
		return nil, err
	}
	takeToken, err := localkey.Leave(dir, listeners["agents"], localkey.Join, joinToken)
	if err != nil {
		return nil, errors.Join(err, takeSecret())
	}
	services.Go("local secrets", life.AtEnd(func() error { return errors.Join(takeSecret(), takeToken()) }))
	return d, nil
}
