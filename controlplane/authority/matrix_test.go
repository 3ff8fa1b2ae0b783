package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

const reference = "../../docs/reference/access-nodes.md"

var update = flag.Bool("update", false, "write docs/reference/access-nodes.md")

// cell says how a call on the agents' port came out.
func cell(err error) string {
	switch code := status.Code(err); code {
	case codes.OK:
		return "yes"
	case codes.Unauthenticated:
		return "401"
	case codes.PermissionDenied:
		return "403"
	case codes.Unavailable:
		return "no connection"
	default:
		return code.String()
	}
}

// comer is somebody who comes to the agents' port.
type comer struct {
	name string
	how  credentials.TransportCredentials
	says string // as which node it speaks
}

// signed gives a certificate that the authority signs and the store does not know.
func (p *port) signed(id string) *tls.Certificate {
	p.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.Fatal(err)
	}
	name := pki.Node(id)
	if id == "" {
		name = pki.ControlPlane()
	}
	cert, err := p.authority.ca.issue(key.Public(), name, time.Hour, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
	if err != nil {
		p.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (p *port) mustJoin(node string) *tls.Certificate {
	p.Helper()
	cert, err := p.join(p.token(node, 0), node)
	if err != nil {
		p.Fatal(err)
	}
	return cert
}

// comers is everyone for whom the table has a line.
func (p *port) comers() []comer {
	p.Setenv(storeURL, "") // another installation has another store
	foreign := open(p.T)
	p.authority.config.NodeLifetime = time.Minute
	expired := p.mustJoin("n4")
	p.clock.advance(2 * time.Minute)
	p.authority.config.NodeLifetime = 24 * time.Hour
	good, revoked := p.mustJoin("n1"), p.mustJoin("n2")
	if err := p.store.Update(p.Context(), func(tx *store.Tx) error { _, err := p.authority.Revoke(tx, "n2"); return err }); err != nil {
		p.Fatal(err)
	}
	malformed := &tls.Certificate{Certificate: [][]byte{[]byte("not DER")}, PrivateKey: good.PrivateKey}
	old := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	return []comer{
		{"a node, with its certificate", p.with(good), "n1"},
		{"a node that says that it is another", p.with(good), "n2"},
		{"nobody: no certificate", p.with(nil), "n1"},
		{"a certificate that was revoked", p.with(revoked), "n2"},
		{"a certificate that has run out", p.with(expired), "n4"},
		{"a certificate of another installation", p.with(foreign.mustJoin("n1")), "n1"},
		{"a certificate that was signed here and never given out", p.with(p.signed("n3")), "n3"},
		{"the certificate of a control plane", p.with(p.signed("")), "n1"},
		{"a certificate that is malformed", p.with(malformed), "n1"},
		{"TLS 1.2", old, "n1"},
		{"no TLS", insecure.NewCredentials(), "n1"},
	}
}

// outcomes gives what comes of each method; fresh is a node that has not joined.
func (p *port) outcomes(c comer, used pki.JoinToken, fresh string) []string {
	p.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		p.Fatal(err)
	}
	_, connected := p.connect(c.how, c.says)
	enroll := agentv1.NewEnrollmentServiceClient(p.dial(c.how))
	_, renewed := enroll.Renew(p.Context(), &agentv1.RenewRequest{Csr: csr})
	cells := []string{cell(connected), cell(renewed)}
	for _, try := range []struct{ token, node string }{
		{"", fresh}, {used.String(), fresh}, {p.token("n9", 0).String(), fresh}, {p.token("", 0).String(), fresh},
		{p.token("", 0).String(), "n1"}, {p.token("n1", 0).String(), "n1"},
	} {
		_, err := enroll.Join(p.Context(), &agentv1.JoinRequest{Token: try.token, Node: try.node, Csr: csr})
		cells = append(cells, cell(err))
	}
	return cells
}

// TestNodesTable calls every method of the agents' port as everyone. What comes
// out is the page that documents it.
func TestNodesTable(t *testing.T) {
	p := open(t)
	used := p.token("", 0)
	if _, err := p.join(used, "n1"); err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	page.WriteString("# What each comer may do on the agents' port\n\nMade by a test (`make gen`) that calls every method as each of these. `no connection`: TLS refuses them.\n\n" +
		"| who | Connect | Renew | Join without a token | with one that was used | with another node's | with one for any new node | with that, as a node that joined before | with that node's |\n|---|---|---|---|---|---|---|---|---|\n")
	for n, c := range p.comers() {
		// A wrong token is a guess, and the port gets tired of guesses.
		p.clock.advance(2 * joinGuesses * joinRefill)
		fmt.Fprintf(&page, "| %s | %s |\n", c.name, strings.Join(p.outcomes(c, used, fmt.Sprint("new-", n)), " | "))
	}
	testkit.Page(t, reference, page.String(), *update)
}
