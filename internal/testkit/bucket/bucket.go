// Package bucket runs an S3 server for tests.
package bucket

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

	"github.com/vigil-ml/vigil/internal/testkit"
)

// What the server is asked with.
const (
	Name      = "bucket" // of the one bucket that it has
	Region    = "us-east-1"
	AccessKey = "vigiltest"
	SecretKey = "vigiltestsecret"
)

// Start starts a versitygw on loopback over a directory and gives its host:port,
// which speaks plaintext. It ends with the test. Where versitygw is not installed
// the test is skipped, or fails where VIGIL_REQUIRE asks for it.
func Start(t testing.TB) (address string) {
	t.Helper()
	program := testkit.Require(t, "versitygw")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = listener.Addr().String()
	_ = listener.Close()
	home := t.TempDir()
	for _, dir := range []string{"data/" + Name, "iam", "meta"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "--access", AccessKey, "--secret", SecretKey, "--port", address,
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
	client, err := minio.New(address, &minio.Options{Creds: credentials.NewStaticV4(AccessKey, SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "versitygw to answer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		there, err := client.BucketExists(ctx, Name)
		return err == nil && there
	})
	return address
}
