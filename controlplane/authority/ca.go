// Package authority lets nodes in: it is the installation's certificate
// authority, with the join tokens by which a node gets its first certificate,
// and the guard of the agents' port, which knows each stream's node by its
// certificate and cuts the stream when that is revoked or has run out.
//
// A key never leaves the machine on which it was made. The authority's own key
// and certificate are files; a site may put those of an authority of its own
// there.
package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	caLifetime = 10 * 365 * 24 * time.Hour
	// backdate allows for clocks that are behind.
	backdate = 5 * time.Minute
)

// Config is what users say about the authority.
type Config struct {
	// CertFile and KeyFile are the authority's, in PEM. Where neither is there
	// both are made. Replicas need the same.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// NodeLifetime is how long a node's certificate is good; it is renewed when
	// two thirds are over. 1m to 2160h.
	NodeLifetime time.Duration `yaml:"node_lifetime"`
}

// Defaults is an authority in a directory, and certificates for a day.
func Defaults(dir string) Config {
	return Config{CertFile: dir + "/ca.pem", KeyFile: dir + "/ca.key", NodeLifetime: 24 * time.Hour}
}

// Check reports what cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.CertFile == "" || c.KeyFile == "" {
		report("cert_file", "cert_file and key_file must both be named")
	}
	if c.NodeLifetime < time.Minute || c.NodeLifetime > 90*24*time.Hour {
		report("node_lifetime", "is %v; want 1m to 2160h", c.NodeLifetime)
	}
}

// ca signs certificates. It is safe for concurrent use.
type ca struct {
	cert  *x509.Certificate
	key   crypto.Signer
	clock func() time.Time
}

// openCA reads the authority, or makes it.
func openCA(config Config, clock func() time.Time) (*ca, error) {
	certText, certErr := os.ReadFile(config.CertFile)
	keyText, keyErr := os.ReadFile(config.KeyFile)
	if errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		key, err := makeKey(config)
		if err != nil {
			return nil, err
		}
		return makeCA(config, key, clock)
	}
	if errors.Is(certErr, fs.ErrNotExist) && keyErr == nil { // it ended between the two when they were made
		key, err := readKey(keyText)
		if err != nil {
			return nil, fault.New(fault.Corrupt, "read authority's key %s: %w", config.KeyFile, err)
		}
		return makeCA(config, key, clock)
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	pair, err := tls.X509KeyPair(certText, keyText)
	if err != nil {
		return nil, fault.New(fault.Corrupt, "read authority %s: %w", config.CertFile, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA || pair.Leaf.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fault.New(fault.Invalid, "read authority: the certificate %s may not sign others", config.CertFile)
	}
	return &ca{cert: pair.Leaf, key: key, clock: clock}, nil
}

// makeKey makes the authority's key. It is written before the certificate, which
// can be made again from it.
func makeKey(config Config) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority's key: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("write authority's key: %w", err)
	}
	return key, writePEM(config.KeyFile, &pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

func readKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T", parsed)
	}
	return key, nil
}

func makeCA(config Config, key *ecdsa.PrivateKey, clock func() time.Time) (*ca, error) {
	now := clock()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Vigil authority"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return &ca{cert: cert, key: key, clock: clock}, writePEM(config.CertFile, &pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func writePEM(path string, block *pem.Block) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make directory of authority: %w", err)
	}
	return durable.WriteFile(durable.OS{}, path, pem.EncodeToMemory(block), 0o600)
}

// serial is 159 random bits, as many as RFC 5280 has room for.
func serial() *big.Int {
	most := new(big.Int).Lsh(big.NewInt(1), 159)
	n, _ := rand.Int(rand.Reader, most) // never fails
	return n.Add(n, big.NewInt(1))
}

// issue signs a certificate of a key, under a SPIFFE id if one is given, for hosts
// of these names and addresses.
func (c *ca) issue(key crypto.PublicKey, id *url.URL, lifetime time.Duration, usages []x509.ExtKeyUsage, hosts ...string) (*x509.Certificate, error) {
	now := c.clock()
	template := &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usages, BasicConstraintsValid: true,
	}
	if id != nil {
		template.URIs = []*url.URL{id}
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	if template.NotAfter.After(c.cert.NotAfter) {
		template.NotAfter = c.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, key, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// keyOf gives the key of a certificate request that is signed by it.
func keyOf(csr []byte) (crypto.PublicKey, error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read certificate request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fault.New(fault.Invalid, "the certificate request is not signed by its key: %w", err)
	}
	key, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fault.New(fault.Invalid, "the certificate request has a %T; want ECDSA on P-256", request.PublicKey)
	}
	return key, nil
}
