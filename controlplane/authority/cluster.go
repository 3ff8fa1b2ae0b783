package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

// ClusterFile is the certificate of the authority that [IssueCluster] keeps.
const ClusterFile = "ca.pem"

// IssueCluster makes certificates in a directory for those who share a bus:
// HOST.pem and HOST.key of each host, of an authority of their own that is there
// too and made where it is not. It is not the nodes' authority: what a node has
// must open nothing here. Each certificate is good for serving and for calling.
func IssueCluster(dir string, hosts []string, lifetime time.Duration) error {
	if len(hosts) == 0 || lifetime <= 0 {
		return fault.New(fault.Invalid, "issue certificates: want at least one host, and a lifetime")
	}
	for _, host := range hosts {
		if filepath.Base(host) != host || host == "ca" || host == "." || host == ".." {
			return fault.New(fault.Invalid, "issue certificates: %q is no host", host)
		}
	}
	ca, err := openCA(Config{CertFile: filepath.Join(dir, ClusterFile), KeyFile: filepath.Join(dir, "ca.key")}, time.Now)
	if err != nil {
		return err
	}
	for _, host := range hosts {
		if err := ca.issueFiles(filepath.Join(dir, host), host, lifetime); err != nil {
			return err
		}
	}
	return nil
}

func (c *ca) issueFiles(path, host string, lifetime time.Duration) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key of %s: %w", host, err)
	}
	leaf, err := c.issue(key.Public(), nil, lifetime, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, host)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write key of %s: %w", host, err)
	}
	if err := durable.WriteFile(durable.OS{}, path+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600); err != nil {
		return err
	}
	return durable.WriteFile(durable.OS{}, path+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}), 0o644)
}
