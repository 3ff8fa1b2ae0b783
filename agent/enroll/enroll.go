// Package enroll keeps what this node comes in with: a key that was made here,
// the certificate that the control plane's authority gave for it, and the
// authority by which the control plane is known.
//
// A node joins once, with a token that names the authority by its pin. From then
// on [Identity.Run] renews the certificate when about two thirds of its time are
// over, with a new key each time; connections that are open go on. A node that joins
// while its agent runs puts another certificate into the file: it is taken with the
// next connection. On one machine the control plane leaves a token for its own
// user's agent (internal/localkey), and the agent joins by itself.
package enroll

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/pki"
)

const (
	retryTime = 10 * time.Second
	// lookTime is how often it is looked whether the node has joined.
	lookTime = time.Minute
	// spread is the part of a certificate's time by which renewals differ, so that
	// nodes that joined together do not renew together.
	spread = 20
)

// Config says whose identity it is and where it lies.
type Config struct {
	Path    string // of the file with key, certificate and authority
	Node    string // the node's name
	Address string // of the control plane's port for agents
	// Joined is the file with the address that the node joined, which takes the
	// place of Address once it is there; may be empty.
	Joined string
}

// Identity is what this node comes in with. It is safe for concurrent use.
type Identity struct {
	config Config
	log    *slog.Logger

	mu        sync.Mutex
	cert      *tls.Certificate // nil while the node has not joined
	authority *x509.Certificate
	changed   chan struct{}     // closed when the node has another certificate
	digest    [sha256.Size]byte // of the file as it was read or written
	address   string
}

// Open reads the identity; a node that has not joined has none, which is no
// error.
func Open(config Config, log *slog.Logger) (*Identity, error) {
	i := &Identity{config: config, log: log, changed: make(chan struct{}), address: config.Address}
	if _, err := i.look(); err != nil {
		return nil, err
	}
	return i, nil
}

// look takes what is in the file, and tells whether that is another identity than
// was read or written last.
func (i *Identity) look() (fresh bool, err error) {
	text, err := os.ReadFile(i.config.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read identity: %w", err)
	}
	i.mu.Lock()
	known := i.cert != nil && sha256.Sum256(text) == i.digest
	i.mu.Unlock()
	if known {
		return false, nil
	}
	cert, err := tls.X509KeyPair(text, text)
	if err == nil && len(cert.Certificate) < 2 {
		err = fault.New(fault.Corrupt, "the authority's certificate is missing")
	}
	var authority *x509.Certificate
	if err == nil {
		authority, err = x509.ParseCertificate(cert.Certificate[1])
	}
	if err != nil {
		return false, fault.WithHint(fault.New(fault.Corrupt, "read identity %s: %w", i.config.Path, err), "remove the file and have the node join again")
	}
	i.use(&cert, authority, text)
	return true, nil
}

// use has the node come in with another certificate from now on.
func (i *Identity) use(cert *tls.Certificate, authority *x509.Certificate, text []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cert, i.authority, i.digest = cert, authority, sha256.Sum256(text)
	close(i.changed)
	i.changed = make(chan struct{})
}

// refresh takes what joining put into the file meanwhile. A file that cannot be
// read is an error only where the node has no certificate that is good.
func (i *Identity) refresh() error {
	i.followAddress()
	fresh, err := i.look()
	if fresh {
		i.log.Info("read this node's certificate", "path", i.config.Path)
	}
	if cert, _ := i.current(); good(cert) {
		return nil
	}
	return err
}

// followAddress takes the address that joining wrote down.
func (i *Identity) followAddress() {
	text, err := os.ReadFile(i.config.Joined)
	if err != nil || i.config.Joined == "" {
		return // it stays what it was
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.address = cmp.Or(strings.TrimSpace(string(text)), i.address)
}

// Address is where the control plane is that the node joined.
func (i *Identity) Address() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.address
}

func good(cert *tls.Certificate) bool { return cert != nil && time.Now().Before(cert.Leaf.NotAfter) }

// Credentials gives what a connection to the control plane is made with. A node
// that has not joined joins now where its own user's control plane on this
// machine left a token; else the error is [fault.Precondition].
func (i *Identity) Credentials(ctx context.Context) (credentials.TransportCredentials, error) {
	if err := i.refresh(); err != nil {
		return nil, err
	}
	if err := i.joinHere(ctx); err != nil {
		return nil, err
	}
	cert, authority := i.current()
	if cert == nil {
		return nil, fault.WithHint(fault.New(fault.Precondition, "node %s has not joined a control plane", i.config.Node),
			"agentctl join-token create --node "+i.config.Node+", then vigil-agent join --token TOKEN "+i.Address())
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
	text, err := localkey.Find(i.Address(), localkey.Join)
	if err != nil || text == "" {
		return err
	}
	token, err := pki.ParseJoinToken(text)
	if err != nil {
		return err
	}
	cert, authority := i.current()
	if good(cert) && pki.Pin(authority) == token.Pin {
		return nil
	}
	return i.Join(ctx, token)
}

// Join gets the node's first certificate. It fails with [fault.Unauthenticated]
// when the token is not good, or the control plane is not the one that made it.
func (i *Identity) Join(ctx context.Context, token pki.JoinToken) error {
	m, err := pki.Join(ctx, i.Address(), i.config.Node, token)
	if err == nil {
		err = i.keep(m)
	}
	if err != nil {
		return fmt.Errorf("join control plane %s: %w", i.Address(), err)
	}
	i.log.Info("joined", "control plane", i.Address())
	return nil
}

// Renew gets a new certificate, for a new key. One that somebody put into the file
// meanwhile stays, and is used.
func (i *Identity) Renew(ctx context.Context) error {
	_, authority := i.current()
	if authority == nil {
		return fault.New(fault.Precondition, "renew certificate: the node has not joined")
	}
	m, err := pki.Renew(ctx, i.Address(), i.config.Node, i.tls(authority), authority)
	if err == nil {
		err = i.replace(m)
	}
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	i.log.Info("renewed this node's certificate")
	return nil
}

// replace keeps a certificate unless there is another in the file than the one that
// it comes after. What cannot be read there is no other.
func (i *Identity) replace(m pki.Member) error {
	if fresh, err := i.look(); err == nil && fresh {
		return nil
	}
	return i.keep(m)
}

// keep writes a certificate down and uses it.
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
	i.use(m.Cert, m.Authority, text.Bytes())
	return nil
}

// Run renews the certificate in time, until ctx ends, and looks for one where there
// is none that is good.
func (i *Identity) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		i.mu.Lock()
		cert, changed := i.cert, i.changed
		i.mu.Unlock()
		if good(cert) {
			i.renewInTime(ctx, cert.Leaf, changed)
			continue
		}
		if cert != nil {
			i.log.Warn("this node's certificate has run out; waiting until the node joins again", "expired", cert.Leaf.NotAfter)
		}
		for pause(ctx, changed, lookTime) {
			if err := i.refresh(); err != nil {
				i.log.Warn("look whether this node has joined", "error", err)
			}
		}
	}
	return nil
}

// renewInTime returns when the node has another certificate, or this one has run
// out.
func (i *Identity) renewInTime(ctx context.Context, leaf *x509.Certificate, changed <-chan struct{}) {
	wait := time.Until(renewal(leaf))
	for pause(ctx, changed, wait) && time.Now().Before(leaf.NotAfter) {
		if err := i.Renew(ctx); err != nil && ctx.Err() == nil {
			i.log.Warn("renew this node's certificate; trying again", "expires", leaf.NotAfter, "error", err)
		}
		wait = min(retryTime, max(time.Until(leaf.NotAfter)/10, time.Second))
		wait += rand.N(wait / 2)
	}
}

// renewal chooses when a certificate is renewed.
func renewal(leaf *x509.Certificate) time.Time {
	lifetime := max(leaf.NotAfter.Sub(leaf.NotBefore), 0)
	return leaf.NotBefore.Add(lifetime*2/3 + rand.N(lifetime/spread+1))
}

// pause waits; it gives false when ctx ended or the certificate changed first.
func pause(ctx context.Context, changed <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changed:
		return false
	case <-timer.C:
		return true
	}
}
