package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
)

func TestPoolOf(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	pool, err := PoolOf(put("good.pem", "# ours\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	want := x509.NewCertPool()
	want.AppendCertsFromPEM([]byte(text))
	if !pool.Equal(want) {
		t.Error("the pool has other certificates than the file")
	}
	none := put("none.pem", "no certificate")
	if _, err := PoolOf(none); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), none) {
		t.Errorf("a file without certificates: %v; want the file named", err)
	}
	if _, err := PoolOf(filepath.Join(dir, "missing.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Pool(nil, "that was pinned"); err == nil || !strings.Contains(err.Error(), "that was pinned") {
		t.Errorf("nothing: %v; want its name", err)
	}
}
