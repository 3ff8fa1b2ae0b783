package ingest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
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

// secured serves the plane twice more: with mTLS alone, and as the control plane does,
// behind the authority, which knows each node and looks whether its certificate is
// still good. It gives where, and what a node that has joined comes in with.
func (p *plane) secured(b *testing.B, node string) (mutual, known string, _ credentials.TransportCredentials) {
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
	group := life.NewGroup(context.Background())
	group.Go("authority", nodes.Run)
	b.Cleanup(func() { group.Stop(); _ = group.Wait() })
	serves := func(options ...grpc.ServerOption) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		server := grpc.NewServer(append(append(p.service.ServerOptions(), grpc.Creds(credentials.NewTLS(nodes.TLS()))), options...)...)
		agentv1.RegisterAgentServiceServer(server, p.service)
		agentv1.RegisterEnrollmentServiceServer(server, nodes)
		group.Go("serve", func(context.Context) error { return server.Serve(listener) })
		b.Cleanup(server.Stop)
		return listener.Addr().String()
	}
	mutual, known = serves(), serves(grpc.StreamInterceptor(nodes.Stream))
	secret, err := nodes.LocalJoinToken(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	token, err := pki.ParseJoinToken(secret)
	if err != nil {
		b.Fatal(err)
	}
	member, err := pki.Join(b.Context(), known, node, token)
	if err != nil {
		b.Fatal(err)
	}
	return mutual, known, credentials.NewTLS(member.TLS())
}

// cpu is what this process has used so far.
func cpu(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkAccess sends samples in turns plainly, with mTLS alone, and with mTLS
// and the check of who the node is, and prints what a million of them took.
func BenchmarkAccess(b *testing.B) {
	p := start(b, b.TempDir())
	const frames, points, rounds, warm = 4, 10000, 60, 6
	mutual, known, how := p.secured(b, "known")
	ways := []struct {
		name, node, address string
		how                 credentials.TransportCredentials
		wall, cpu           []time.Duration // of each round
		agent               *agent
		sequence            uint64
	}{
		{name: "nothing", node: "plain", address: p.address, how: insecure.NewCredentials()},
		{name: "mTLS alone", node: "mtls", address: mutual, how: how},
		{name: "mTLS, access and audit", node: "known", address: known, how: how},
	}
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
		for turn := range ways {
			// Each is first, and last, as often as the others: garbage of one is
			// collected in the time of the next.
			way := &ways[(turn+round)%len(ways)]
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
				way.wall = append(way.wall, time.Since(began))
				way.cpu = append(way.cpu, cpu(b)-used)
			}
		}
	}
	million := float64(frames*points) / 1e6
	middle := func(rounds []time.Duration) float64 {
		slices.Sort(rounds)
		return float64(rounds[len(rounds)/2].Microseconds()) / 1000 / million
	}
	fmt.Printf("\n%.1f million samples in turns, %d bytes for %d of them; the median of %d rounds:\n  %-24s %12s %14s\n",
		float64(rounds)*million, bytes, points, rounds, "guarded by", "ms/million", "CPU ms/million")
	used := make([]float64, len(ways))
	for i, way := range ways {
		used[i] = middle(way.cpu)
		fmt.Printf("  %-24s %12.1f %14.1f\n", way.name, middle(way.wall), used[i])
	}
	fmt.Printf("  CPU, mTLS to nothing: %.3f; access and audit to mTLS alone: %.3f\n", used[1]/used[0], used[2]/used[1])
}
