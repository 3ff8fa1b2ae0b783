package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/serve"
)

const (
	// serverLifetime is how long the control plane's own certificate is good.
	serverLifetime = 24 * time.Hour
	// reloadEvery is how often the files of a site's certificate are looked at.
	reloadEvery = 2 * time.Second
)

// server is the control plane's own certificate. It is safe for concurrent use.
type server struct {
	ca    *ca
	hosts []string // names and addresses that it is good for besides its SPIFFE id

	mu   sync.Mutex
	cert *tls.Certificate // while it is good
}

// own gives the certificate, made anew when half of its time is over. The
// authority's goes with it, for those who know only its pin.
func (s *server) own() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert != nil && s.ca.clock().Add(serverLifetime/2).Before(s.cert.Leaf.NotAfter) {
		return s.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the control plane's key: %w", err)
	}
	cert, err := s.ca.issue(key.Public(), pki.ControlPlane(), serverLifetime, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, s.hosts...)
	if err != nil {
		return nil, err
	}
	s.cert = &tls.Certificate{Certificate: [][]byte{cert.Raw, s.ca.cert.Raw}, PrivateKey: key, Leaf: cert}
	return s.cert, nil
}

func (s *server) forClient(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.own() }

// Site is a certificate of the site's own, in PEM files; empty is none.
type Site struct{ CertFile, KeyFile string }

// OperatorTLS is how the operators' port speaks where it speaks TLS: with the
// site's certificate if there is one, else with one of this authority that is
// good for these hosts. Who asks for [pki.ServerName] always gets the latter.
// It fails when the site's certificate cannot be read.
func (a *Authority) OperatorTLS(site Site, hosts []string) (*tls.Config, error) {
	own := &server{ca: a.ca, hosts: hosts}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: serve.Protocols(), GetCertificate: own.forClient, Time: a.deps.Clock,
	}
	if site.CertFile == "" {
		return config, nil
	}
	pair := &sitePair{files: site, log: a.deps.Log, clock: a.deps.Clock}
	if err := pair.load(); err != nil {
		return nil, err
	}
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == pki.ServerName {
			return own.own()
		}
		return pair.current(), nil
	}
	return config, nil
}

// PEM is the authority's certificate, by which it is known.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.ca.cert.Raw})
}

// Pin names the authority's key.
func (a *Authority) Pin() string { return pki.Pin(a.ca.cert) }

// sitePair is a certificate in files that others renew. It is safe for
// concurrent use.
type sitePair struct {
	files Site
	log   *slog.Logger
	clock func() time.Time

	mu      sync.Mutex
	cert    *tls.Certificate
	changed time.Time // of the newer of the files
	looked  time.Time
}

// current gives the certificate, read again when its files have changed. While
// they do not fit each other the one before stays.
func (p *sitePair) current() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.clock(); now.Sub(p.looked) >= reloadEvery {
		p.looked = now
		if changed, err := p.lastChange(); err == nil && !changed.Equal(p.changed) {
			if err := p.load(); err != nil {
				p.log.Error("read the renewed certificate; the one before stays", "error", err)
			}
		}
	}
	return p.cert
}

func (p *sitePair) lastChange() (last time.Time, err error) {
	for _, path := range []string{p.files.CertFile, p.files.KeyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return last, fmt.Errorf("look at certificate: %w", err)
		}
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last, nil
}

func (p *sitePair) load() error {
	changed, err := p.lastChange()
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(p.files.CertFile, p.files.KeyFile)
	if err != nil {
		return fault.New(fault.Invalid, "read certificate %s: %w", p.files.CertFile, err)
	}
	p.cert, p.changed = &cert, changed
	return nil
}
