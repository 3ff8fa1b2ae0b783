package controlplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/serve"
	"github.com/vigil-ml/vigil/internal/testkit"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// TestWhereThePortSpeaksTLS: beyond loopback always, and nothing can turn it off.
func TestWhereThePortSpeaksTLS(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "http://H",
		"api: {listen: '127.0.0.1:80'}": "http://H",
		"api: {tls: {on: true}}":        "https://H",
		"api: {listen: '0.0.0.0:8080'}": "https://H",
		"api: {listen: ':8080'}":        "https://H",
		"api: {listen: '[::]:80', tls: {on: false}}":                      "https://H",
		"api: {listen: 'gpu-1:8080', url: 'https://vigil.example.org/'}":  "https://vigil.example.org",
		"api: {tls: {cert_file: /c.pem, key_file: /c.key}}":               "https://H",
		"api: {listen: '127.0.0.1:80', url: 'https://vigil.example.org'}": "https://vigil.example.org",
		"api: {tls: {cert_file: /c.pem}}":                                 "error tls",
		"api: {listen: '0.0.0.0'}":                                        "error listen",
		"api: {url: here}":                                                "error url",
	} {
		c, err := decode(text + "\n")
		if key, ok := strings.CutPrefix(want, "error "); ok {
			if err == nil || !strings.Contains(err.Error(), "api."+key) {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if got := c.API.external("H"); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
}

func free(t *testing.T) string { return net.JoinHostPort("127.0.0.1", testkit.FreePort(t)) }

// runs starts a control plane and waits until it answers.
func runs(t *testing.T, c Config) {
	t.Helper()
	group := life.NewGroup(context.Background())
	group.Go("control plane", func(ctx context.Context) error { return Run(ctx, c, io.Discard) })
	t.Cleanup(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	testkit.Eventually(t, "a control plane at "+c.API.Listen, func() bool {
		secret, err := localkey.Find(c.API.Listen, localkey.Operator)
		return err == nil && secret != ""
	})
}

// siteCertificate writes a certificate of a site's own, and gives it.
func siteCertificate(t *testing.T, dir, host string) *x509.Certificate {
	t.Helper()
	pair, _ := testkit.SelfSigned(t, host)
	secret, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"site.pem": {Type: "CERTIFICATE", Bytes: pair.Leaf.Raw}, "site.key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pair.Leaf
}

func poolOf(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}

// TestOperatorsOverTLS: gRPC and JSON on one port, by the authority that the
// control plane left for its own user, by a host's name, and by a site's
// certificate; whoever knows another authority, or speaks plainly, gets nothing.
func TestOperatorsOverTLS(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := t.TempDir()
	site := siteCertificate(t, dir, "vigil.example.org")
	c, err := decode("api: {tls: {cert_file: " + dir + "/site.pem, key_file: " + dir + "/site.key, names: [control-1]}}\n")
	if err != nil {
		t.Fatal(err)
	}
	c.StateDir, c.API.Listen, c.Agents.Listen = filepath.Join(dir, "state"), free(t), free(t)
	runs(t, c)
	secret, err := localkey.Find(c.API.Listen, localkey.Operator)
	if err != nil {
		t.Fatal(err)
	}
	text, err := localkey.Find(c.API.Listen, localkey.Authority)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("the control plane left %q", text)
	}
	authority, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		how  credentials.TransportCredentials
		good bool
	}{
		"by the authority":          {credentials.NewTLS(pki.ToControlPlane(poolOf(authority))), true},
		"by its pin":                {credentials.NewTLS(pki.ToPinned(pki.Pin(authority), func(*x509.Certificate) {})), true},
		"by the site's certificate": {credentials.NewTLS(pki.ToHost(poolOf(site), "vigil.example.org")), true},
		"another authority":         {credentials.NewTLS(pki.ToControlPlane(poolOf(site))), false},
		"another pin":               {credentials.NewTLS(pki.ToPinned(pki.Pin(site), func(*x509.Certificate) {})), false},
		"another name":              {credentials.NewTLS(&tls.Config{RootCAs: poolOf(site), ServerName: "evil.example.org"}), false},
		"the system's authorities":  {credentials.NewTLS(&tls.Config{ServerName: "vigil.example.org"}), false},
		"plainly":                   {insecure.NewCredentials(), false},
	} {
		conn, err := grpc.NewClient("passthrough:///"+c.API.Listen, grpc.WithTransportCredentials(tc.how), serve.Bearer(secret, true))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		out, err := controlv1.NewAccessServiceClient(conn).WhoAmI(ctx, &controlv1.WhoAmIRequest{})
		cancel()
		if (err == nil) != tc.good || (tc.good && out.GetCaller().GetKind() != "local") {
			t.Errorf("%s: %v, %v", name, out, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	overHTTPS(t, c.API.Listen, secret, site)

	renewed := siteCertificate(t, dir, "vigil.example.org")
	testkit.Eventually(t, "the renewed certificate", func() bool {
		conn, err := tls.Dial("tcp", c.API.Listen, &tls.Config{ServerName: "vigil.example.org", RootCAs: poolOf(site, renewed)})
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].Equal(renewed)
	})
}

// overHTTPS speaks JSON as a browser would, which offers HTTP/2 too.
func overHTTPS(t *testing.T, address, secret string, authority *x509.Certificate) {
	t.Helper()
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: poolOf(authority), ServerName: "vigil.example.org"}}
	defer transport.CloseIdleConnections()
	for _, tc := range []struct {
		secret string
		status int
	}{{secret, 200}, {"", 401}, {"vgl_no_no", 401}} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+"/vigil.control.v1.AccessService/WhoAmI", bytes.NewReader([]byte("{}")))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		if tc.secret != "" {
			request.Header.Set("Authorization", "Bearer "+tc.secret)
		}
		response, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Error(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != tc.status || response.ProtoMajor != 1 {
			t.Errorf("with %q: %s over %s", tc.secret, response.Status, response.Proto)
		}
	}
}
