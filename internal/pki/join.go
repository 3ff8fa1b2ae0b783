package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/localkey"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// callTime is how long joining and renewing may take.
const callTime = 30 * time.Second

// Member is what a node comes in with: its key and certificate, and the
// authority that signed it, by which the node knows its control plane.
type Member struct {
	Cert      *tls.Certificate // with the authority's behind it; Leaf is set
	Authority *x509.Certificate
}

// TLS is how the node speaks with its control plane.
func (m Member) TLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(m.Authority)
	config := ToControlPlane(pool)
	config.Certificates = []tls.Certificate{*Shown(m.Cert)}
	return config
}

// Shown is what a node shows of its certificate: not the authority's, which its
// control plane has, and would keep once more for each connection.
func Shown(cert *tls.Certificate) *tls.Certificate {
	shown := *cert
	shown.Certificate = shown.Certificate[:1]
	return &shown
}

// Join gets a node's first certificate for a token, of a key that is made here.
// It fails with [fault.Unauthenticated] when the token is not good or the
// control plane is not the one that made it, and with [fault.Unavailable] when
// there is none.
func Join(ctx context.Context, address, node string, token JoinToken) (Member, error) {
	var authority *x509.Certificate
	config := ToPinned(token.Pin, func(cert *x509.Certificate) { authority = cert })
	key, chain, err := ask(ctx, address, config, func(ctx context.Context, c agentv1.EnrollmentServiceClient, csr []byte) ([][]byte, error) {
		out, err := c.Join(ctx, &agentv1.JoinRequest{Token: token.String(), Node: node, Csr: csr})
		return out.GetChain(), err
	})
	if err != nil {
		return Member{}, err
	}
	return member(key, chain, authority, node)
}

// Renew gets a certificate for a new key, from the control plane that the
// configuration, which has the present certificate, speaks with.
func Renew(ctx context.Context, address, node string, config *tls.Config, authority *x509.Certificate) (Member, error) {
	key, chain, err := ask(ctx, address, config, func(ctx context.Context, c agentv1.EnrollmentServiceClient, csr []byte) ([][]byte, error) {
		out, err := c.Renew(ctx, &agentv1.RenewRequest{Csr: csr})
		return out.GetChain(), err
	})
	if err != nil {
		return Member{}, err
	}
	return member(key, chain, authority, node)
}

// ask makes a key and asks for its certificate on a connection of its own.
func ask(ctx context.Context, address string, config *tls.Config,
	do func(context.Context, agentv1.EnrollmentServiceClient, []byte) ([][]byte, error)) (*ecdsa.PrivateKey, [][]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "address %s: %w", address, err)
	}
	defer func() { _ = conn.Close() }()
	chain, err := do(ctx, agentv1.NewEnrollmentServiceClient(conn), csr)
	return key, chain, fault.FromGRPC(err)
}

// member checks that a certificate is of the node and the key, and signed by the
// authority.
func member(key *ecdsa.PrivateKey, chain [][]byte, authority *x509.Certificate, node string) (Member, error) {
	if len(chain) == 0 || authority == nil {
		return Member{}, fault.New(fault.Corrupt, "the answer has no certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return Member{}, fault.New(fault.Corrupt, "read certificate: %w", err)
	}
	of, err := NodeOf(leaf)
	if err != nil {
		return Member{}, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil || of != node || !key.PublicKey.Equal(leaf.PublicKey) {
		return Member{}, fault.New(fault.Corrupt, "the certificate is of node %q and not what was asked for (%v)", of, err)
	}
	return Member{
		Cert:      &tls.Certificate{Certificate: [][]byte{leaf.Raw, authority.Raw}, PrivateKey: key, Leaf: leaf},
		Authority: authority,
	}, nil
}

// JoinHere joins a control plane of this user on this machine, which left a token
// for its own user's programs (internal/localkey). It fails with
// [fault.Precondition] when there is no such token.
func JoinHere(ctx context.Context, address, node string) (Member, error) {
	text, err := localkey.Find(address, localkey.Join)
	if err != nil {
		return Member{}, err
	}
	if text == "" {
		return Member{}, fault.New(fault.Precondition, "join %s: no control plane of this user left a token there", address)
	}
	token, err := ParseJoinToken(text)
	if err != nil {
		return Member{}, err
	}
	return Join(ctx, address, node, token)
}
