// Package pki is what an agent and a control plane must agree on to know each
// other: the names in their certificates, the pin of the authority that a join
// token carries, and how a TLS connection between them is checked.
package pki

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
)

// Domain is the trust domain of SPIFFE ids. An installation is told from another
// by its authority, not by this.
const Domain = "vigil"

const nodePath = "/node/"

// ServerName is what clients who know the authority ask for: they get the
// certificate that it signed, also where others are shown a site's own.
const ServerName = "controlplane.vigil.internal"

// ControlPlane is the SPIFFE id of a control plane.
func ControlPlane() *url.URL { return &url.URL{Scheme: "spiffe", Host: Domain, Path: "/controlplane"} }

// Node is the SPIFFE id of a node.
func Node(name string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: Domain, Path: nodePath + name}
}

// idOf gives a certificate's only SPIFFE id.
func idOf(cert *x509.Certificate) (*url.URL, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" || cert.URIs[0].Host != Domain {
		return nil, fault.New(fault.Unauthenticated, "the certificate has no SPIFFE id of the domain %s", Domain)
	}
	return cert.URIs[0], nil
}

// NodeOf gives the node that a certificate is of.
func NodeOf(cert *x509.Certificate) (string, error) {
	id, err := idOf(cert)
	if err != nil {
		return "", err
	}
	name, ok := strings.CutPrefix(id.Path, nodePath)
	if !ok || protocol.CheckNode(name) != nil {
		return "", fault.New(fault.Unauthenticated, "the certificate is of %s, not of a node", id)
	}
	return name, nil
}

// Pin names an authority by its key, so that a new certificate of the same key
// has the same pin.
func Pin(authority *x509.Certificate) string {
	sum := sha256.Sum256(authority.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// tokenPrefix begins every join token: vjt_ID_SECRET_PIN.
const tokenPrefix = "vjt_"

// JoinToken is what a node joins with.
type JoinToken struct {
	ID     string // no secret
	Secret string
	Pin    string // of the authority, so that the node knows whom it joins
}

// String is the token as people carry it.
func (t JoinToken) String() string { return tokenPrefix + t.ID + "_" + t.Secret + "_" + t.Pin }

// ParseJoinToken reads a token.
func ParseJoinToken(text string) (JoinToken, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	parts := strings.Split(rest, "_")
	if !ok || len(parts) != 3 || len(parts[2]) != 2*sha256.Size || slices.Contains(parts, "") {
		return JoinToken{}, fault.WithHint(fault.New(fault.Invalid, "this is no join token"), "agentctl join-token create makes one")
	}
	return JoinToken{parts[0], parts[1], parts[2]}, nil
}

// ToControlPlane checks a connection to a control plane by its authority and its
// SPIFFE id: the address may be any. The configuration has no certificate.
func ToControlPlane(authorities *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: ServerName,
		InsecureSkipVerify: true, // the host's name says nothing here; VerifyConnection checks the rest
		VerifyConnection: func(state tls.ConnectionState) error {
			return checkControlPlane(state.PeerCertificates, authorities)
		},
	}
}

// ToPinned is ToControlPlane for one that is known by its authority's pin alone.
// Learn is told the authority.
func ToPinned(pin string, learn func(*x509.Certificate)) *tls.Config {
	config := ToControlPlane(nil)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		for _, cert := range state.PeerCertificates {
			if Pin(cert) != pin || !cert.IsCA {
				continue
			}
			pool := x509.NewCertPool()
			pool.AddCert(cert)
			if err := checkControlPlane(state.PeerCertificates, pool); err != nil {
				return err
			}
			learn(cert)
			return nil
		}
		return fault.WithHint(fault.New(fault.Unauthenticated, "the control plane there is not the one that made the join token"),
			"check the address, or make a new token at that control plane")
	}
	return config
}

// ToHost checks a connection to a control plane by a host's name, or else by its
// SPIFFE id, and by these authorities.
func ToHost(authorities *x509.CertPool, host string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, ServerName: host,
		InsecureSkipVerify: true, // VerifyConnection checks it all
		VerifyConnection: func(state tls.ConnectionState) error {
			leaf, err := checkChain(state.PeerCertificates, authorities)
			if err != nil || leaf.VerifyHostname(host) == nil {
				return err
			}
			return checkID(leaf)
		},
	}
}

func checkControlPlane(chain []*x509.Certificate, authorities *x509.CertPool) error {
	leaf, err := checkChain(chain, authorities)
	if err != nil {
		return err
	}
	return checkID(leaf)
}

// checkChain gives the certificate of who is there, signed by an authority.
func checkChain(chain []*x509.Certificate, authorities *x509.CertPool) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, fault.New(fault.Unauthenticated, "the control plane shows no certificate")
	}
	options := x509.VerifyOptions{Roots: authorities, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	if _, err := chain[0].Verify(options); err != nil {
		return nil, fault.New(fault.Unauthenticated, "the control plane's certificate: %w", err)
	}
	return chain[0], nil
}

// checkID refuses who is no control plane.
func checkID(leaf *x509.Certificate) error {
	id, err := idOf(leaf)
	if err != nil {
		return err
	}
	if id.Path != ControlPlane().Path {
		return fault.New(fault.Unauthenticated, "the certificate there is of %s, not of a control plane", id)
	}
	return nil
}

// PoolOf reads the certificates of authorities, in PEM, that a configuration
// names. It fails with [fault.Invalid] when there is none in the file.
func PoolOf(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	return Pool(text, path)
}

// Pool is PoolOf for what was read, under a name for people.
func Pool(text []byte, name string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fault.New(fault.Invalid, "read authorities %s: there is no certificate in PEM", name)
	}
	return pool, nil
}
