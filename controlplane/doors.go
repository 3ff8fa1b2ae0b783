package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/authority"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/serve"
)

// doors is what decides who comes in.
type doors struct {
	guard     *access.Guard
	tokens    *access.Tokens
	admin     *access.Admin
	authority *authority.Authority
	people    *access.OIDC // nil where nobody signs in
	tls       *tls.Config  // of the operators' port; nil where it speaks plainly
}

// openDoors makes the guard of operators and the authority of nodes. It leaves
// what this user's own programs on this machine come in with, until the control
// plane ends: the local administrator's secret, and a join token.
func (c *controlPlane) openDoors(ctx context.Context, services *life.Group, listeners map[string]string) (*doors, error) {
	d := &doors{tokens: access.NewTokens(c.store, time.Now), admin: access.NewAdmin(c.store)}
	local, secret := access.NewLocal()
	known := []access.Authenticator{local, d.admin, d.tokens}
	err := c.ensureAdmin(ctx, d.admin)
	if err != nil {
		return nil, err
	}
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

// ensureAdmin makes the local administrator with the first start on these records,
// and shows the secret, once: on the terminal that the control plane was started
// from or, where there is none, in a file that its user alone can read. It is not
// logged.
func (c *controlPlane) ensureAdmin(ctx context.Context, admin *access.Admin) error {
	var secret string
	made, _ := c.audit.Ride(ctx, trail.Record{
		Class: trail.Key, Actor: trail.Actor{Kind: "system", ID: "first start"}, Action: "local administrator/make", Outcome: "ok",
	})
	err := c.store.View(ctx, func(tx *store.Tx) error { _, err := tx.LocalAdmin(); return err })
	if fault.Is(err, fault.NotFound) {
		err = c.store.Update(made, func(tx *store.Tx) (err error) { secret, err = admin.Ensure(tx); return err })
	}
	if err != nil || secret == "" {
		return err
	}
	if file, ok := c.console.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		_, err = fmt.Fprintf(file, "\nThe local administrator's secret, shown this once:\n\n    %s\n\n", secret)
		return err
	}
	path := filepath.Join(c.config.StateDir, adminFile)
	if err := durable.WriteFile(durable.OS{}, path, []byte(secret+"\n"), 0o600); err != nil {
		return err
	}
	c.log.Info("the local administrator was made; read the secret and remove the file: it is nowhere else", "file", path)
	return nil
}

// bound has a port hold so many connections, and counts those that it closes.
func (c *controlPlane) bound(port net.Listener, name string, bounds Bounds) net.Listener {
	if c.refused == nil {
		c.refused = metric.NewCounter(c.metrics, metric.ControlConnectionsRefused)
	}
	return serve.Bound(port, serve.Bounds{Most: bounds.Max, Address: bounds.MaxPerAddress, Refused: func(why string, _ int) {
		reason := "port"
		if why == serve.TooManyOfAddress {
			reason = "address"
		}
		c.refused.WithLabelValues(name, reason).Inc()
	}})
}

// adminFile has the local administrator's secret until somebody takes it.
const adminFile = "local-admin.secret"
