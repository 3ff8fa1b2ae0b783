package ingest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/authority"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// secured serves the plane once more as the control plane does, behind the
// authority with mTLS, and gives what a node that has joined comes in with.
func (p *plane) secured(b *testing.B, node string) (string, credentials.TransportCredentials) {
	b.Helper()
	dir, log := b.TempDir(), testkit.Logger(b)
	records, err := store.Open(b.Context(), store.Config{Path: filepath.Join(dir, "vigil.db")}, store.Deps{Log: log})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = records.Close() })
	trail, err := audit.Open(b.Context(), audit.Defaults(filepath.Join(dir, "audit")), audit.Deps{Store: records, Log: log, Metrics: prometheus.NewRegistry(), Clock: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	nodes, err := authority.Open(authority.Defaults(filepath.Join(dir, "authority")), authority.Deps{Store: records, Audit: trail, Log: log, Clock: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer(append(p.service.ServerOptions(), grpc.Creds(credentials.NewTLS(nodes.TLS())), grpc.StreamInterceptor(nodes.Stream))...)
	agentv1.RegisterAgentServiceServer(server, p.service)
	agentv1.RegisterEnrollmentServiceServer(server, nodes)
	group := life.NewGroup(context.Background())
	group.Go("authority", nodes.Run)
	group.Go("serve", func(context.Context) error { return server.Serve(listener) })
	b.Cleanup(func() { server.Stop(); group.Stop(); _ = group.Wait() })
	secret, err := nodes.LocalJoinToken(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	token, err := pki.ParseJoinToken(secret)
	if err != nil {
		b.Fatal(err)
	}
	member, err := pki.Join(b.Context(), listener.Addr().String(), node, token)
	if err != nil {
		b.Fatal(err)
	}
	return listener.Addr().String(), credentials.NewTLS(member.TLS())
}

// cpu is what this process has used so far.
func cpu(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkAccess sends samples in turns with and without mTLS and the check of
// who the node is, and prints what a million of them took.
func BenchmarkAccess(b *testing.B) {
	p := start(b, b.TempDir())
	const frames, points, rounds, warm = 4, 10000, 40, 5
	secure, how := p.secured(b, "mtls")
	ways := []struct {
		name, node, address string
		how                 credentials.TransportCredentials
		wall, cpu           time.Duration
		agent               *agent
		sequence            uint64
	}{{name: "nothing", node: "plain", address: p.address, how: insecure.NewCredentials()}, {name: "mTLS and who it is", node: "mtls", address: secure, how: how}}
	for i := range ways {
		conn, err := grpc.NewClient("passthrough:///"+ways[i].address, grpc.WithTransportCredentials(ways[i].how), grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		stream, err := agentv1.NewAgentServiceClient(conn).Connect(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		ways[i].agent = &agent{t: b, stream: stream}
		ways[i].agent.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: &agentv1.Hello{Revision: protocol.Revision, Node: ways[i].node}}})
		ways[i].agent.hear()
		ways[i].agent.say(define(&agentv1.SeriesDef{Ref: 1, Metric: metric.HostLoad1.Name}))
	}
	base, bytes := noon().Add(-time.Hour).UnixMilli(), 0
	for round := range rounds + warm {
		for i := range ways {
			way := &ways[i]
			began, used := time.Now(), cpu(b)
			for range frames {
				all := make([]columns.Point, points)
				for k := range all {
					all[k] = columns.Point{Ref: 1, TimeMS: base + int64(way.sequence)*points + int64(k), Value: float64(k % 977)}
				}
				way.sequence++
				columns := block(all...)
				bytes = len(columns.Block)
				way.agent.say(say(sampleFrame(way.sequence, columns)))
			}
			way.agent.acked(samples, 1, way.sequence)
			if round >= warm {
				way.wall += time.Since(began)
				way.cpu += cpu(b) - used
			}
		}
	}
	million := float64(rounds*frames*points) / 1e6
	fmt.Printf("\n%.1f million samples in turns, %d bytes for %d of them:\n  %-22s %12s %12s\n", million, bytes, points, "guarded by", "ms/million", "CPU ms/million")
	for _, way := range ways {
		fmt.Printf("  %-22s %12.1f %12.1f\n", way.name, float64(way.wall.Milliseconds())/million, float64(way.cpu.Milliseconds())/million)
	}
	fmt.Printf("  CPU, guarded to not: %.3f\n", float64(ways[1].cpu)/float64(ways[0].cpu))
}
