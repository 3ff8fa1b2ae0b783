// Package enroll keeps what this node comes in with: a key that was made here,
// the certificate that the control plane's authority gave for it, and the
// authority by which the control plane is known.
//
// A node joins once, with a token that names the authority by its pin. From then
// on [Identity.Run] renews the certificate when two thirds of its time are over,
// with a new key each time; connections that are open go on. On one machine the
// control plane leaves a token for its own user's agent (internal/localkey), and
// the agent joins by itself.
package enroll

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/pki"
)

const retryTime = 10 * time.Second

// Config says whose identity it is and where it lies.
type Config struct {
	Path    string // of the file with key, certificate and authority
	Node    string // the node's name
	Address string // of the control plane's port for agents
}

// Identity is what this node comes in with. It is safe for concurrent use.
type Identity struct {
	config Config
	log    *slog.Logger

	mu        sync.Mutex
	cert      *tls.Certificate // nil while the node has not joined
	authority *x509.Certificate
	changed   chan struct{} // closed when the node has another certificate
}

// Open reads the identity; a node that has not joined has none, which is no
// error.
func Open(config Config, log *slog.Logger) (*Identity, error) {
	i := &Identity{config: config, log: log, changed: make(chan struct{})}
	text, err := os.ReadFile(config.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	cert, err := tls.X509KeyPair(text, text)
	if err == nil && len(cert.Certificate) < 2 {
		err = fault.New(fault.Corrupt, "the authority's certificate is missing")
	}
	if err == nil {
		i.authority, err = x509.ParseCertificate(cert.Certificate[1])
	}
	if err != nil {
		return nil, fault.WithHint(fault.New(fault.Corrupt, "read identity %s: %w", config.Path, err), "remove the file and have the node join again")
	}
	i.cert = &cert
	return i, nil
}

// Credentials gives what a connection to the control plane is made with. A node
// that has not joined joins now where its own user's control plane on this
// machine left a token; else the error is [fault.Precondition].
func (i *Identity) Credentials(ctx context.Context) (credentials.TransportCredentials, error) {
	if err := i.joinHere(ctx); err != nil {
		return nil, err
	}
	cert, authority := i.current()
	if cert == nil {
		return nil, fault.WithHint(fault.New(fault.Precondition, "node %s has not joined a control plane", i.config.Node),
			"agentctl join-token create, then vigil-agent join --token TOKEN "+i.config.Address)
	}
	return credentials.NewTLS(i.tls(authority)), nil
}

func (i *Identity) current() (*tls.Certificate, *x509.Certificate) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cert, i.authority
}

func (i *Identity) tls(authority *x509.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	config := pki.ToControlPlane(pool)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, _ := i.current()
		return pki.Shown(cert), nil
	}
	return config
}

// joinHere joins the control plane of this user on this machine, when the node
// has joined none, or one that is gone: of another authority, or its certificate
// has run out.
func (i *Identity) joinHere(ctx context.Context) error {
	text, err := localkey.Find(i.config.Address, localkey.Join)
	if err != nil || text == "" {
		return err
	}
	token, err := pki.ParseJoinToken(text)
	if err != nil {
		return err
	}
	cert, authority := i.current()
	if cert != nil && pki.Pin(authority) == token.Pin && time.Now().Before(cert.Leaf.NotAfter) {
		return nil
	}
	return i.Join(ctx, token)
}

// Join gets the node's first certificate. It fails with [fault.Unauthenticated]
// when the token is not good, or the control plane is not the one that made it.
func (i *Identity) Join(ctx context.Context, token pki.JoinToken) error {
	m, err := pki.Join(ctx, i.config.Address, i.config.Node, token)
	if err == nil {
		err = i.keep(m)
	}
	if err != nil {
		return fmt.Errorf("join control plane %s: %w", i.config.Address, err)
	}
	i.log.Info("joined", "control plane", i.config.Address)
	return nil
}

// Renew gets a new certificate, for a new key.
func (i *Identity) Renew(ctx context.Context) error {
	_, authority := i.current()
	if authority == nil {
		return fault.New(fault.Precondition, "renew certificate: the node has not joined")
	}
	m, err := pki.Renew(ctx, i.config.Address, i.config.Node, i.tls(authority), authority)
	if err == nil {
		err = i.keep(m)
	}
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	i.log.Info("renewed this node's certificate")
	return nil
}

// keep has the node come in with another certificate from now on.
func (i *Identity) keep(m pki.Member) error {
	secret, err := x509.MarshalPKCS8PrivateKey(m.Cert.PrivateKey)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	var text bytes.Buffer
	for _, block := range []*pem.Block{
		{Type: "CERTIFICATE", Bytes: m.Cert.Leaf.Raw}, {Type: "CERTIFICATE", Bytes: m.Authority.Raw}, {Type: "PRIVATE KEY", Bytes: secret},
	} {
		_ = pem.Encode(&text, block) // into memory: never fails
	}
	if err := os.MkdirAll(filepath.Dir(i.config.Path), 0o700); err != nil {
		return fmt.Errorf("make directory of identity: %w", err)
	}
	if err := durable.WriteFile(durable.OS{}, i.config.Path, text.Bytes(), 0o600); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cert, i.authority = m.Cert, m.Authority
	close(i.changed)
	i.changed = make(chan struct{})
	return nil
}

// Run renews the certificate in time, until ctx ends.
func (i *Identity) Run(ctx context.Context) error {
	for {
		i.mu.Lock()
		cert, changed := i.cert, i.changed
		i.mu.Unlock()
		if cert == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
				continue
			}
		}
		leaf := cert.Leaf
		due := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
		if !life.Sleep(ctx, time.Until(due)) {
			return nil
		}
		if err := i.Renew(ctx); err != nil && ctx.Err() == nil {
			i.log.Warn("renew this node's certificate; trying again", "expires", leaf.NotAfter, "error", err)
			if !life.Sleep(ctx, min(retryTime, max(time.Until(leaf.NotAfter)/10, time.Second))) {
				return nil
			}
		}
	}
}
