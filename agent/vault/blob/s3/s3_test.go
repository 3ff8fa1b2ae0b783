package s3

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/agent/vault/blob/blobtest"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

const (
	accessKey = "vigiltest"
	secretKey = "vigiltestsecret"
)

func getenv(name string) string {
	return map[string]string{"ACCESS": accessKey, "SECRET": secretKey}[name]
}

// server starts a versitygw on loopback over a directory and gives its address.
func server(t *testing.T) string {
	t.Helper()
	program := testkit.Require(t, "versitygw")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	home := t.TempDir()
	for _, dir := range []string{"data/bucket", "iam", "meta"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "--access", accessKey, "--secret", secretKey, "--port", address,
		"--iam-dir", filepath.Join(home, "iam"), "posix", "--sidecar", filepath.Join(home, "meta"), filepath.Join(home, "data"))
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("versitygw: %s", out)
		}
	})
	client, err := minio.New(address, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "versitygw to answer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		there, err := client.BucketExists(ctx, "bucket")
		return err == nil && there
	})
	return address
}

func config(address, prefix string) Config {
	return Config{
		Endpoint: address, Bucket: "bucket", Prefix: prefix, Region: "us-east-1", Insecure: true,
		AccessKeyEnv: "ACCESS", SecretKeyEnv: "SECRET", PartBytes: minPartBytes,
	}
}

func TestConformance(t *testing.T) {
	address, n := server(t), 0
	blobtest.Run(t, func(t *testing.T) blob.Store {
		n++
		s, err := New(config(address, strings.Repeat("p", n)), blob.Deps{Getenv: getenv})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// Errors say what is to be done about them.
func TestErrorsHaveKinds(t *testing.T) {
	address := server(t)
	try := func(c Config, env func(string) string) error {
		t.Helper()
		s, err := New(c, blob.Deps{Getenv: env})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return s.Put(ctx, "k", strings.NewReader("x"), 1)
	}
	if err := try(config(address, ""), func(string) string { return "wrong" }); !fault.Is(err, fault.Denied) {
		t.Errorf("wrong key: %v", err)
	}
	other := config(address, "")
	other.Bucket = "no-such-bucket"
	if err := try(other, getenv); !fault.Is(err, fault.Invalid) {
		t.Errorf("no such bucket: %v", err)
	}
	if err := try(config("127.0.0.1:1", ""), getenv); err == nil || fault.Is(err, fault.Invalid) || fault.Is(err, fault.Denied) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := config("127.0.0.1:1", "")
	for name, change := range map[string]func(*Config){
		"endpoint":   func(c *Config) { c.Endpoint = "" },
		"bucket":     func(c *Config) { c.Bucket = "" },
		"secret_key": func(c *Config) { c.SecretKeyEnv = "" },
		"part_bytes": func(c *Config) { c.PartBytes = 1 },
		"a URL":      func(c *Config) { c.Endpoint = "http://x/y" },
	} {
		bad := good
		change(&bad)
		if _, err := New(bad, blob.Deps{Getenv: getenv}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
