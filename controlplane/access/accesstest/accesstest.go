// Package accesstest gives tests of what is behind the guard a real guard, and
// the local administrator's secret to come in with.
package accesstest

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/authority"
	"github.com/vigil-ml/vigil/controlplane/people"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// Doors is a guard with what stands behind it.
type Doors struct {
	Guard  *access.Guard
	Audit  *audit.Log
	Tokens *access.Tokens
	Nodes  *authority.Authority
	People *people.Book
	Secret string // of the local administrator
}

// Open makes the doors of a store; dir is where the audit log's key lies.
func Open(t testing.TB, s *store.Store, dir string, more ...access.Authenticator) *Doors {
	t.Helper()
	config := access.Defaults()
	config.Rate, config.Burst, config.FailedLogins = 1e6, 1e6, 1e6
	return OpenWith(t, config, s, dir, more...)
}

// OpenWith is Open with a configuration.
func OpenWith(t testing.TB, config access.Config, s *store.Store, dir string, more ...access.Authenticator) *Doors {
	t.Helper()
	registry := prometheus.NewRegistry()
	log, err := audit.Open(t.Context(), audit.Defaults(filepath.Join(dir, "audit")), audit.Deps{
		Store: s, Log: testkit.Logger(t), Metrics: registry, Clock: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	book, err := people.Open(t.Context(), envelope.Settings{}, people.Deps{Store: s, Audit: log, Log: testkit.Logger(t), Metrics: registry, Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	local, secret := access.NewLocal()
	tokens := access.NewTokens(s, time.Now)
	nodes, err := authority.Open(authority.Defaults(filepath.Join(dir, "authority")), authority.Deps{
		Store: s, Audit: log, Log: testkit.Logger(t), Clock: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &Doors{
		Guard: access.NewGuard(config, access.Deps{
			Store: s, Audit: log, Authenticators: append([]access.Authenticator{local, access.NewAdmin(s), tokens}, more...), People: book,
			Log: testkit.Logger(t), Metrics: registry, Clock: time.Now,
		}),
		Audit: log, Tokens: tokens, Nodes: nodes, People: book, Secret: secret,
	}
}
