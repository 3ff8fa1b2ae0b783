package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock can be set.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// port is the agents' port with an authority of its own.
type port struct {
	*testing.T
	agentv1.UnimplementedAgentServiceServer
	dir       string
	store     *store.Store
	audit     *audit.Log
	authority *Authority
	clock     *clock
	address   string
}

// Connect takes a Hello, says Welcome, and then nothing until the stream ends.
func (p *port) Connect(stream grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := p.authority.Admit(stream.Context(), first.GetHello().GetNode()); err != nil {
		return fault.GRPC(err)
	}
	if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: &agentv1.Welcome{}}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func open(t *testing.T) *port {
	t.Helper()
	p := &port{T: t, dir: t.TempDir(), clock: &clock{}}
	var err error
	if p.store, err = store.Open(t.Context(), storeAt(filepath.Join(p.dir, "vigil.db")), store.Deps{Log: testkit.Logger(t)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.store.Close() })
	p.audit, err = audit.Open(t.Context(), audit.Defaults(filepath.Join(p.dir, "audit")), audit.Deps{
		Store: p.store, Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), Clock: p.clock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	config := Defaults(filepath.Join(p.dir, "authority"))
	p.authority, err = Open(config, Deps{Store: p.store, Audit: p.audit, Log: testkit.Logger(t), Clock: p.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(p.authority.TLS())), grpc.StreamInterceptor(p.authority.Stream))
	agentv1.RegisterAgentServiceServer(server, p)
	agentv1.RegisterEnrollmentServiceServer(server, p.authority)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = listener.Addr().String()
	group := life.NewGroup(context.Background())
	group.Go("serve", func(context.Context) error { return server.Serve(listener) })
	group.Go("watch", p.authority.Run)
	t.Cleanup(func() {
		server.Stop()
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// token makes a join token.
func (p *port) token(node string, lifetime time.Duration) pki.JoinToken {
	p.Helper()
	var secret string
	err := p.store.Update(p.Context(), func(tx *store.Tx) (err error) {
		secret, _, err = p.authority.CreateJoinToken(tx, node, lifetime, 0)
		return err
	})
	if err != nil {
		p.Fatal(err)
	}
	token, err := pki.ParseJoinToken(secret)
	if err != nil {
		p.Fatal(err)
	}
	return token
}

// dial opens a connection for one test.
func (p *port) dial(how credentials.TransportCredentials) *grpc.ClientConn {
	p.Helper()
	conn, err := grpc.NewClient("passthrough:///"+p.address, grpc.WithTransportCredentials(how))
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _ = conn.Close() })
	return conn
}

// join joins as a node and gives its certificate.
func (p *port) join(token pki.JoinToken, node string) (*tls.Certificate, error) {
	p.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		p.Fatal(err)
	}
	conn := p.dial(credentials.NewTLS(pki.ToPinned(token.Pin, func(*x509.Certificate) {})))
	out, err := agentv1.NewEnrollmentServiceClient(conn).Join(p.Context(), &agentv1.JoinRequest{Token: token.String(), Node: node, Csr: csr})
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: out.Chain, PrivateKey: key}, nil
}

// with gives what a client comes in with that shows a certificate.
func (p *port) with(cert *tls.Certificate) credentials.TransportCredentials {
	pool := x509.NewCertPool()
	pool.AddCert(p.authority.ca.cert)
	config := pki.ToControlPlane(pool)
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return credentials.NewTLS(config)
}

// connect opens a stream as a node and gives how that came out.
func (p *port) connect(how credentials.TransportCredentials, says string) (grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse], error) {
	p.Helper()
	stream, err := agentv1.NewAgentServiceClient(p.dial(how)).Connect(p.Context())
	if err != nil {
		return nil, err
	}
	err = stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: &agentv1.Hello{Node: says}}})
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	_, err = stream.Recv()
	return stream, err
}

// A node that says that it is another is recorded; docs/reference/access-nodes.md
// has who gets how far.
func TestWhoSaysAnotherNameIsRecorded(t *testing.T) {
	p, foreign := open(t), open(t)
	good := p.mustJoin("n1")
	if _, err := p.connect(p.with(good), "n2"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another node's name: %v", err)
	}
	if _, err := p.connect(foreign.with(good), "n1"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the wrong authority expected: %v", err)
	}
	found, err := p.audit.Search(t.Context(), store.AuditQuery{Actor: "node/n1", Outcome: "denied"})
	if err != nil || len(found) != 1 {
		t.Errorf("the audit log has %d records of a node that said it was another, %v; want 1", len(found), err)
	}
}

func TestWhoMayJoin(t *testing.T) {
	p, foreign := open(t), open(t)
	used, short := p.token("", 0), p.token("", time.Minute)
	if _, err := p.join(used, "n1"); err != nil {
		t.Fatalf("a good token: %v", err)
	}
	wrong := p.token("", 0)
	wrong.Secret = "AAAAAAAAAAAAAAAAAAAAAAAAAA"
	for name, tc := range map[string]struct {
		token pki.JoinToken
		node  string
		code  codes.Code
	}{
		"used already":           {used, "n2", codes.Unauthenticated},
		"a wrong secret":         {wrong, "n2", codes.Unauthenticated},
		"for another node":       {p.token("n7", 0), "n2", codes.Unauthenticated},
		"of another authority":   {foreign.token("", 0), "n2", codes.Unauthenticated},
		"for this node":          {p.token("n3", 0), "n3", codes.OK},
		"a name that is a path":  {p.token("", 0), "../n2", codes.InvalidArgument},
		"a name that is nothing": {p.token("", 0), "", codes.InvalidArgument},
	} {
		if _, err := p.join(tc.token, tc.node); status.Code(err) != tc.code {
			t.Errorf("%s: %v, want %v", name, err, tc.code)
		}
	}
	p.clock.advance(2 * time.Minute)
	if _, err := p.join(short, "n2"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("expired: %v", err)
	}
	conn := p.dial(p.with(nil))
	if _, err := agentv1.NewEnrollmentServiceClient(conn).Renew(t.Context(), &agentv1.RenewRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a renewal by nobody: %v", err)
	}
	for range 2 * joinGuesses {
		_, _ = p.join(wrong, "n2")
	}
	if _, err := p.join(wrong, "n2"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("guessing goes on: %v", err)
	}
}

// A node that is revoked while it is connected is cut off.
func TestRevocationCutsTheStream(t *testing.T) {
	p := open(t)
	cert, err := p.join(p.token("", 0), "n1")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := p.connect(p.with(cert), "n1")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := p.store.Update(t.Context(), func(tx *store.Tx) error { _, err := p.authority.Revoke(tx, "n1"); return err }); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the stream ended with %v", err)
	}
	t.Logf("revocation cut the stream after %v", time.Since(began))
	again, err := p.join(p.token("n1", 0), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.connect(p.with(again), "n1"); err != nil {
		t.Errorf("after joining again: %v", err)
	}
}

// A stream outlives its certificate while the node renews it, and no longer.
func TestAStreamOutlivesARenewedCertificate(t *testing.T) {
	p := open(t)
	p.authority.config.NodeLifetime = time.Hour
	cert, err := p.join(p.token("", 0), "n1")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := p.connect(p.with(cert), "n1")
	if err != nil {
		t.Fatal(err)
	}
	p.authority.config.NodeLifetime = 24 * time.Hour
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agentv1.NewEnrollmentServiceClient(p.dial(p.with(cert))).Renew(t.Context(), &agentv1.RenewRequest{Csr: csr}); err != nil {
		t.Fatal(err)
	}
	p.clock.advance(2 * time.Hour) // past the first certificate's end
	if err := p.authority.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := stream.Context().Err(); err != nil {
		t.Errorf("the stream was cut: %v", err)
	}
	p.clock.advance(30 * time.Hour) // past the second's
	if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a certificate that is good the stream ended with %v", err)
	}
}

func TestTheAuthorityStays(t *testing.T) {
	p := open(t)
	again, err := Open(p.authority.config, p.authority.deps)
	if err != nil {
		t.Fatal(err)
	}
	if pki.Pin(again.ca.cert) != pki.Pin(p.authority.ca.cert) {
		t.Error("opened again it is another")
	}
	if info, err := os.Stat(p.authority.config.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its key: %v, %v", info, err)
	}
	leaf, err := (&server{ca: p.authority.ca}).own()
	if err != nil || len(leaf.Certificate) != 2 {
		t.Errorf("the control plane's own certificate: %v", err)
	}
	if err := os.Remove(p.authority.config.KeyFile); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.authority.config, p.authority.deps); err == nil {
		t.Error("half an authority was opened")
	}
}
