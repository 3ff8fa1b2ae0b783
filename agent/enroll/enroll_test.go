package enroll

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// put writes an identity that is good from now on, as joining does.
func put(t *testing.T, path string, lifetime time.Duration) {
	t.Helper()
	var text bytes.Buffer
	now := time.Now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "n"}, NotBefore: now, NotAfter: now.Add(lifetime),
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for kind, data := range map[string][]byte{"CERTIFICATE": append([]byte(nil), cert...), "PRIVATE KEY": secret} {
		for range map[string]int{"CERTIFICATE": 2, "PRIVATE KEY": 1}[kind] { // the node's and the authority's
			if err := pem.Encode(&text, &pem.Block{Type: kind, Bytes: data}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// said is a log that can be read.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) times(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), what)
}

// running runs an identity whose control plane is away, in a bubble.
func running(t *testing.T, lifetime time.Duration, body func(t *testing.T, i *Identity, path string, log *said)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path, log := filepath.Join(dir, "identity.pem"), &said{}
		if lifetime > 0 {
			put(t, path, lifetime)
		}
		i, err := Open(Config{Path: path, Node: "n", Address: "127.0.0.1:1"}, slog.New(slog.NewTextHandler(log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- i.Run(t.Context()) }()
		body(t, i, path, log)
		t.Cleanup(func() { // the test's context has ended
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	})
}

const (
	trying  = "renew this node's certificate; trying again"
	ranOut  = "certificate has run out"
	readNew = "read this node's certificate"
)

// TestACertificateThatRanOut is not renewed any more, as nobody would take it, and
// the log says so once; the node comes back when it joins again.
func TestACertificateThatRanOut(t *testing.T) {
	running(t, time.Hour, func(t *testing.T, i *Identity, path string, log *said) {
		time.Sleep(time.Hour + time.Minute)
		before := log.times(trying)
		time.Sleep(24 * time.Hour)
		if got := log.times(trying); before == 0 || got != before {
			t.Errorf("renewal was tried %d times, and %d times after the end", before, got-before)
		}
		if got := log.times(ranOut); got != 1 {
			t.Errorf("it was said %d times that it ran out", got)
		}
		put(t, path, time.Hour)
		time.Sleep(2 * lookTime)
		if got := log.times(readNew); got != 1 {
			t.Errorf("joining again was seen %d times", got)
		}
		time.Sleep(time.Hour)
		if log.times(trying) == before {
			t.Error("the new certificate was not renewed in its time")
		}
	})
}

// TestJoiningWhileTheAgentRuns: what joining put into the file is used, by the one
// who runs and by whoever connects.
func TestJoiningWhileTheAgentRuns(t *testing.T) {
	t.Run("it had not joined", func(t *testing.T) {
		running(t, 0, func(t *testing.T, i *Identity, path string, log *said) {
			if _, err := i.Credentials(t.Context()); !fault.Is(err, fault.Precondition) {
				t.Errorf("without a certificate: %v", err)
			}
			put(t, path, time.Hour)
			time.Sleep(2 * lookTime)
			if log.times(readNew) != 1 {
				t.Error("it was not seen that the node joined")
			}
		})
	})
	t.Run("it had joined another control plane", func(t *testing.T) {
		running(t, 24*time.Hour, func(t *testing.T, i *Identity, path string, log *said) {
			_, before := i.current()
			put(t, path, 1000*time.Hour)
			if _, err := i.Credentials(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, now := i.current(); now.Equal(before) {
				t.Error("the connection is made with the certificate of before")
			}
			time.Sleep(23 * time.Hour)
			if got := log.times(trying); got != 0 {
				t.Errorf("renewed %d times, when the certificate of before would have been", got)
			}
			if err := os.WriteFile(path, []byte("half a fi"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := i.Credentials(t.Context()); err != nil {
				t.Errorf("with a good certificate, and a file that cannot be read: %v", err)
			}
		})
	})
}

// TestTheAddressThatWasJoined is followed, where the configuration does not say one.
func TestTheAddressThatWasJoined(t *testing.T) {
	dir := t.TempDir()
	path, joined := filepath.Join(dir, "identity.pem"), filepath.Join(dir, "control-plane")
	for _, follows := range []bool{true, false} {
		config := Config{Path: path, Node: "n", Address: "127.0.0.1:1"}
		if follows {
			config.Joined = joined
		}
		i, err := Open(config, testkit.Logger(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Credentials(t.Context()); !fault.Is(err, fault.Precondition) || i.Address() != "127.0.0.1:1" {
			t.Errorf("before: %s, %v", i.Address(), err)
		}
		put(t, path, time.Hour)
		if err := os.WriteFile(joined, []byte("control-1:7443\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := i.Credentials(t.Context()); err != nil {
			t.Error(err)
		}
		if got := i.Address() == "control-1:7443"; got != follows {
			t.Errorf("afterwards: %s", i.Address())
		}
		for _, file := range []string{path, joined} {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRenewalsAreSpread: nodes that joined together do not renew together.
func TestRenewalsAreSpread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.pem")
	put(t, path, 24*time.Hour)
	i, err := Open(Config{Path: path, Node: "n"}, testkit.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	leaf := i.cert.Leaf
	first, last := leaf.NotAfter, leaf.NotBefore
	for range 1000 {
		at := renewal(leaf)
		if at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	if first.Sub(leaf.NotBefore) < 16*time.Hour || last.Sub(leaf.NotBefore) > 18*time.Hour || last.Sub(first) < time.Hour {
		t.Errorf("renewed between %s and %s after it was made", first.Sub(leaf.NotBefore), last.Sub(leaf.NotBefore))
	}
}
