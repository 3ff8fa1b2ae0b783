package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
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
	people    *access.OIDC // nil where nobody signs in
	tls       *tls.Config  // of the operators' port; nil where it speaks plainly
}

// openDoors makes the guard of operators and the authority of nodes. It leaves
// what this user's own programs on this machine come in with, until the control
// plane ends: the local administrator's secret, and a join token.
func (c *controlPlane) openDoors(ctx context.Context, services *life.Group, listeners map[string]string) (*doors, error) {
	d := &doors{tokens: access.NewTokens(c.store, time.Now)}
	local, secret := access.NewLocal()
	known := []access.Authenticator{local, d.tokens}
	var err error
	if c.config.Access.OIDC.Issuer != "" {
		if d.people, err = access.NewOIDC(c.config.Access.OIDC, time.Now, c.audit.Pseudonym); err != nil {
			return nil, err
		}
		services.Go("sign-in", life.AtEnd(func() error { d.people.Close(); return nil }))
		known = append(known, d.people)
	}
	d.guard = access.NewGuard(c.config.Access, access.Deps{
		Store: c.store, Audit: c.audit, Authenticators: known, People: c.people, Log: c.log, Metrics: c.metrics, Clock: time.Now,
	})
	d.authority, err = authority.Open(c.config.Authority, authority.Deps{Store: c.store, Audit: c.audit, Log: c.log, Clock: time.Now})
	if err != nil {
		return nil, err
	}
	if err := c.secure(d, listeners["api"]); err != nil {
		return nil, err
	}
	return d, c.leaveKeys(ctx, services, d, listeners, secret)
}

// secure has the operators' port speak TLS where it is to.
func (c *controlPlane) secure(d *doors, address string) (err error) {
	if !c.config.API.secure() {
		c.log.Info("operators come in from this machine only; api.listen beyond loopback lets others in, with TLS", "api", address)
		return nil
	}
	options := c.config.API.TLS
	d.tls, err = d.authority.OperatorTLS(authority.Site{CertFile: options.CertFile, KeyFile: options.KeyFile}, c.config.API.hosts(address))
	if err == nil {
		c.log.Info("operators come in with TLS", "api", address, "pin", d.authority.Pin())
	}
	return err
}

// leaveKeys leaves what this user's own programs on this machine come in with.
func (c *controlPlane) leaveKeys(ctx context.Context, services *life.Group, d *doors, listeners map[string]string, secret string) error {
	joinToken, err := d.authority.LocalJoinToken(ctx)
	if err != nil {
		return err
	}
	type key struct {
		address string
		kind    localkey.Kind
		secret  string
	}
	keys := []key{{listeners["agents"], localkey.Join, joinToken}, {listeners["api"], localkey.Operator, secret}}
	if d.tls == nil { // one that was killed may have spoken TLS here
		if err := localkey.Drop(c.config.Access.LocalDir, listeners["api"], localkey.Authority); err != nil {
			return err
		}
	} else {
		keys = append([]key{{listeners["api"], localkey.Authority, strings.TrimSpace(string(d.authority.PEM()))}}, keys...)
	}
	var takes []func() error
	takeAll := func() (err error) {
		for _, take := range takes {
			err = errors.Join(err, take())
		}
		return err
	}
	for _, key := range keys {
		take, err := localkey.Leave(c.config.Access.LocalDir, key.address, key.kind, key.secret)
		if err != nil {
			return errors.Join(err, takeAll())
		}
		takes = append(takes, take)
	}
	services.Go("local secrets", life.AtEnd(takeAll))
	return nil
}
