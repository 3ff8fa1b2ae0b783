package api

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/serve"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// openGuard lets everyone in and records nothing.
type openGuard struct{ as *access.Identity }

// Unary hands the call on.
func (g openGuard) Unary(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	return handle(access.With(ctx, g.as), in)
}

// Stream hands the call on.
func (openGuard) Stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return handle(srv, stream)
}

// Head and Admit let every call be read.
func (openGuard) Head(context.Context) error { return nil }

func (openGuard) Admit(*http.Request) error { return nil }

// Web hands the request on.
func (openGuard) Web(next http.Handler) http.Handler { return next }

// both gives TLS for a server and a client that each show a certificate.
func both(b *testing.B) (server, client *tls.Config) {
	b.Helper()
	pair, pool := testkit.SelfSigned(b, "v")
	server = &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, NextProtos: serve.Protocols(),
	}
	return server, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: "v"}
}

// another serves the installation's store once more, with another guard.
func (in *installation) another(b *testing.B, guard Guard, secure *tls.Config) string {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := New(Deps{
		Guard: guard, TLS: secure, Audit: in.doors.Audit, Tokens: in.doors.Tokens, Admin: access.NewAdmin(in.store), Nodes: in.doors.Nodes, Listener: listener,
		People: in.doors.People, Keys: in.doors.People.Keys(), Progress: in.doors.People.Progress,
		Store: in.store, Saver: in.fleet, History: in.bus, Log: testkit.Logger(b), Metrics: prometheus.NewRegistry(),
		Tracer: noop.NewTracerProvider().Tracer(""), Clock: time.Now,
	})
	group := life.NewGroup(context.Background())
	group.Go("api", served.Run)
	b.Cleanup(func() { group.Stop(); _ = group.Wait() })
	return listener.Addr().String()
}

// BenchmarkAccess makes tokens, which is a call that changes something, in turns
// with and without what guards it, and prints what each adds to the median.
func BenchmarkAccess(b *testing.B) {
	in := install(b)
	_, secret := in.token(b, time.Hour, nil, commonv1.Role_ROLE_ADMIN)
	server, client := both(b)
	ways := []struct {
		name    string
		address string
		how     credentials.TransportCredentials
	}{
		{"nothing", in.another(b, openGuard{&access.Identity{Kind: "local", ID: "admin"}}, nil), insecure.NewCredentials()},
		{"access check and audit", in.another(b, in.doors.Guard, nil), insecure.NewCredentials()},
		{"access check, audit and mTLS", in.another(b, in.doors.Guard, server), credentials.NewTLS(client)},
	}
	took := make([][]time.Duration, len(ways))
	var clients []controlv1.AccessServiceClient
	for _, way := range ways {
		conn, err := grpc.NewClient("passthrough:///"+way.address, grpc.WithTransportCredentials(way.how), serve.Bearer(secret, true))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		clients = append(clients, controlv1.NewAccessServiceClient(conn))
	}
	const calls, warm = 600, 50
	for n := range calls + warm {
		for i, client := range clients {
			began := time.Now()
			_, err := client.CreateToken(b.Context(), &controlv1.CreateTokenRequest{Name: "bench", Roles: []commonv1.Role{commonv1.Role_ROLE_VIEWER}})
			if err != nil {
				b.Fatalf("%s: %v", ways[i].name, err)
			}
			if n >= warm {
				took[i] = append(took[i], time.Since(began))
			}
		}
	}
	fmt.Printf("\na call that changes something, %d times in turns:\n  %-30s %9s %9s %9s\n", calls, "guarded by", "p50 ms", "p99 ms", "adds ms")
	var bare float64
	for i, way := range ways {
		slices.Sort(took[i])
		ms := func(part float64) float64 {
			return float64(took[i][int(part*float64(len(took[i])-1))].Microseconds()) / 1000
		}
		if i == 0 {
			bare = ms(.5)
		}
		fmt.Printf("  %-30s %9.3f %9.3f %9.3f\n", way.name, ms(.5), ms(.99), ms(.5)-bare)
	}
}
