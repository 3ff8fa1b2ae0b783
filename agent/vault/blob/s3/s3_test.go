package s3

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/agent/vault/blob/blobtest"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit/bucket"
)

const (
	accessKey = bucket.AccessKey
	secretKey = bucket.SecretKey
)

func getenv(name string) string {
	return map[string]string{"ACCESS": accessKey, "SECRET": secretKey}[name]
}

func config(address, prefix string) Config {
	return Config{
		Endpoint: address, Bucket: bucket.Name, Prefix: prefix, Region: bucket.Region, Insecure: true,
		AccessKeyEnv: "ACCESS", SecretKeyEnv: "SECRET", PartBytes: minPartBytes,
	}
}

func TestConformance(t *testing.T) {
	address, n := bucket.Start(t), 0
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
	address := bucket.Start(t)
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
