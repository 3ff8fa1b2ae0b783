package bus_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/authority"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// secureServer starts a NATS server that wants a certificate of an authority, and
// gives its URL and the versions of TLS that clients spoke.
func secureServer(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, authority.ClusterFile))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "127.0.0.1.pem"), filepath.Join(dir, "127.0.0.1.key"))
	if err != nil {
		t.Fatal(err)
	}
	nats, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, MaxPayload: 8 << 20,
		TLS: true, TLSVerify: true, TLSTimeout: 20,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert},
	})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	if !nats.ReadyForConnections(20 * time.Second) {
		t.Fatal("NATS is not ready")
	}
	return nats.ClientURL()
}

// TestBusOverTLS: control planes and NATS know each other by certificates of an
// authority of their own; whoever has another's certificate gets nowhere.
func TestBusOverTLS(t *testing.T) {
	ours, others := t.TempDir(), t.TempDir()
	for dir, hosts := range map[string][]string{ours: {"127.0.0.1", "control-1"}, others: {"control-1"}} {
		if err := authority.IssueCluster(dir, hosts, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	url := secureServer(t, ours)
	for name, tc := range map[string]struct {
		ca, pair string
		good     bool
	}{
		"ours":                     {ours, ours, true},
		"a certificate of another": {ours, others, false},
		"another authority":        {others, ours, false},
		"no certificate":           {"", "", false},
	} {
		config := bus.Defaults(t.TempDir())
		config.URL, config.Replicas = url, 1
		if tc.ca != "" {
			config.TLS = bus.TLSConfig{
				CAFile:   filepath.Join(tc.ca, authority.ClusterFile),
				CertFile: filepath.Join(tc.pair, "control-1.pem"), KeyFile: filepath.Join(tc.pair, "control-1.key"),
			}
		}
		b, err := bus.Open(t.Context(), config, bus.Deps{Log: testkit.Logger(t), Metrics: prometheus.NewRegistry()})
		if err == nil {
			b.Close()
		}
		if (err == nil) != tc.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := authority.IssueCluster(ours, []string{"../x"}, time.Hour); err == nil {
		t.Error("a host that is a path")
	}
	info, err := os.Stat(filepath.Join(ours, "control-1.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its key: %v, %v", info, err)
	}
}
