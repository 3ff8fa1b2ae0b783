package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/pki"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

func (p *port) revoke(node string) (certificates int32, err error) {
	err = p.store.Update(p.Context(), func(tx *store.Tx) (err error) {
		certificates, err = p.authority.Revoke(tx, node)
		return err
	})
	return certificates, err
}

// good gives how many certificates a node has that are good.
func (p *port) good(node string) (good int) {
	p.Helper()
	err := p.store.View(p.Context(), func(tx *store.Tx) error {
		all, err := p.authority.List(tx)
		for _, c := range all {
			if c.GetNode() == node && c.GetRevoked() == nil {
				good++
			}
		}
		return err
	})
	if err != nil {
		p.Fatal(err)
	}
	return good
}

// renew renews a certificate and gives how that came out.
func (p *port) renew(ctx context.Context, cert *tls.Certificate, client agentv1.EnrollmentServiceClient) error {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, cert.PrivateKey)
	if err != nil {
		return err
	}
	_, err = client.Renew(ctx, &agentv1.RenewRequest{Csr: csr})
	return err
}

// Whatever a node renews while it is revoked, it has nothing that is good then.
func TestWhoIsRevokedRenewsNothing(t *testing.T) {
	p := open(t)
	for range 20 {
		cert := p.mustJoin("n1") // with a token of its own
		client := agentv1.NewEnrollmentServiceClient(p.dial(p.with(cert)))
		group := life.NewGroup(t.Context())
		for range 4 {
			group.Go("renew", func(ctx context.Context) error {
				if err := p.renew(ctx, cert, client); err != nil && status.Code(err) != codes.PermissionDenied {
					return err
				}
				return nil
			})
		}
		if _, err := p.revoke("n1"); err != nil {
			t.Fatal(err)
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := p.good("n1"); n != 0 {
			t.Fatalf("%d certificates are good after the revocation", n)
		}
	}
}

// A replica whose clock is behind revokes: the stream is cut all the same.
func TestTheTimeOfARevocationDoesNotMatter(t *testing.T) {
	p := open(t)
	p.clock.advance(time.Minute)
	stream, err := p.connect(p.with(p.mustJoin("n1")), "n1")
	if err != nil {
		t.Fatal(err)
	}
	p.clock.advance(-2 * time.Minute)
	if _, err := p.revoke("n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the stream ended with %v", err)
	}
}

// A token that was made for the node goes with its certificates, also when it is
// all that the node has; those of others stay.
func TestRevocationTakesTheNodesTokens(t *testing.T) {
	p := open(t)
	p.mustJoin("n1")
	own, others, early := p.token("n1", 0), p.token("n2", 0), p.token("n3", 0)
	if n, err := p.revoke("n1"); err != nil || n != 1 {
		t.Errorf("%d certificates were revoked, %v; want 1", n, err)
	}
	if _, err := p.join(own, "n1"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a token of a node that was revoked: %v", err)
	}
	if n, err := p.revoke("n3"); err != nil || n != 0 {
		t.Errorf("of a node that has a token alone %d certificates were revoked, %v", n, err)
	}
	if _, err := p.join(early, "n3"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("that token: %v", err)
	}
	if _, err := p.revoke("n3"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a node that has nothing: %v", err)
	}
	if _, err := p.join(others, "n2"); err != nil {
		t.Errorf("another node's token: %v", err)
	}
}

// Whose name is taken: a token for any new node lets nobody become a node that
// joined before, nor one that was revoked back in, and is not used up by the try.
// That of the control plane's own user lets back in who was not revoked.
func TestWhoseNameIsTaken(t *testing.T) {
	p := open(t)
	p.authority.config.NodeLifetime = time.Hour
	p.mustJoin("away")
	p.clock.advance(2 * time.Hour)
	p.mustJoin("here")
	p.mustJoin("revoked")
	if _, err := p.revoke("revoked"); err != nil {
		t.Fatal(err)
	}
	local := func() pki.JoinToken {
		secret, err := p.authority.LocalJoinToken(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		token, err := pki.ParseJoinToken(secret)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	unbound := p.token("", 0)
	for _, tc := range []struct {
		name  string
		token pki.JoinToken
		node  string
		code  codes.Code
	}{
		{"a node that is here", unbound, "here", codes.PermissionDenied},
		{"a node whose certificate has run out", unbound, "away", codes.PermissionDenied},
		{"a node that was revoked", unbound, "revoked", codes.PermissionDenied},
		{"a new node", unbound, "new", codes.OK},
		{"local, here", local(), "here", codes.OK},
		{"local, run out", local(), "away", codes.OK},
		{"local, revoked", local(), "revoked", codes.PermissionDenied},
		{"its own, here", p.token("here", 0), "here", codes.OK},
		{"its own, revoked", p.token("revoked", 0), "revoked", codes.OK},
		{"local, revoked and let in again", local(), "revoked", codes.OK},
	} {
		_, err := p.join(tc.token, tc.node)
		if status.Code(err) != tc.code {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.code)
		}
		if tc.code == codes.PermissionDenied && !strings.Contains(err.Error(), "join-token create --node "+tc.node) {
			t.Errorf("%s: nobody is told what to do: %v", tc.name, err)
		}
	}
	found, err := p.audit.Search(t.Context(), store.AuditQuery{Outcome: "denied"})
	if err != nil || len(found) != 4 {
		t.Errorf("the audit log has %d records of names that are taken, %v; want 4", len(found), err)
	}
}

// An authority that ended between its key and its certificate has the same key
// afterwards; a certificate without its key is no authority.
func TestHalfAnAuthority(t *testing.T) {
	config := Defaults(t.TempDir())
	first, err := openCA(config, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(config.CertFile); err != nil {
		t.Fatal(err)
	}
	second, err := openCA(config, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if !second.key.(*ecdsa.PrivateKey).Equal(first.key) || !second.cert.PublicKey.(*ecdsa.PublicKey).Equal(first.key.Public()) {
		t.Error("the certificate is of another key")
	}
	node, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.issue(node.Public(), pki.Node("n1"), time.Hour, nil); err != nil {
		t.Errorf("it does not sign: %v", err)
	}
	if err := os.Remove(config.KeyFile); err != nil {
		t.Fatal(err)
	}
	if _, err := openCA(config, time.Now); err == nil {
		t.Error("a certificate without its key was opened")
	}
	if err := os.Remove(config.CertFile); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config.KeyFile, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openCA(config, time.Now); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a key that is none: %v", err)
	}
}
