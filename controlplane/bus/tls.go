package bus

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/serve"
)

// TLSConfig says how the servers of a cluster are known, and how the control
// plane is known to them, in PEM files.
type TLSConfig struct {
	// CAFile has the authorities of the servers.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile are what the control plane shows.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// Check reports files of which a part is missing.
func (c TLSConfig) Check(report func(key, format string, args ...any)) {
	if (c.CAFile == "") != (c.CertFile == "") || (c.CertFile == "") != (c.KeyFile == "") {
		report("ca_file", "ca_file, cert_file and key_file go together")
	}
}

// secure is how the servers are spoken with: TLS 1.3, each side with a
// certificate; nil where there are no files.
func (c TLSConfig) secure() (*tls.Config, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	pool, err := pki.PoolOf(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("speak with NATS: %w", err)
	}
	if _, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile); err != nil {
		return nil, fault.New(fault.Invalid, "read certificate for NATS: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool,
		// Read at each connection: others renew it.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			return &cert, err
		},
	}, nil
}

// local tells whether all servers are on this machine.
func (c Config) local() bool {
	for server := range strings.SplitSeq(c.URL, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		u, err := url.Parse(server)
		if err != nil || u.Scheme == "tls" {
			return false
		}
		host := u.Host
		if u.Port() == "" {
			host += ":4222"
		}
		if serve.Loopback(host) != "" {
			return false
		}
	}
	return true
}
