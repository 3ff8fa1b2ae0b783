package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/internal/fault"
)

func TestWhereABucketIs(t *testing.T) {
	env := map[string]string{}
	getenv := func(name string) string { return env[name] }
	got, err := bucketAt("s3://site/audit/north/", getenv)
	if diff := cmp.Diff(audit.BucketConfig{Endpoint: "s3.amazonaws.com", Bucket: "site", Prefix: "audit/north"}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	env["AWS_ENDPOINT_URL"], env["AWS_REGION"] = "http://127.0.0.1:9000", "here"
	got, err = bucketAt("s3://site", getenv)
	if diff := cmp.Diff(audit.BucketConfig{Endpoint: "127.0.0.1:9000", Bucket: "site", Region: "here", Plaintext: true}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := bucketAt("s3:///x", getenv); !fault.Is(err, fault.Invalid) {
		t.Errorf("no bucket: %v", err)
	}
	env["AWS_ENDPOINT_URL_S3"] = "nonsense"
	if _, err := bucketAt("s3://site", getenv); !fault.Is(err, fault.Invalid) {
		t.Errorf("an endpoint that is none: %v", err)
	}
}

func TestWhereAnElasticsearchIs(t *testing.T) {
	env := map[string]string{"ELASTIC_API_KEY": "k"}
	got, err := elasticAt("elastic:https://search:9200/north", func(name string) string { return env[name] })
	if err != nil || got.Addresses[0] != "https://search:9200" || got.Namespace != "north" || got.APIKey != "k" || got.SetUp {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"elastic:", "elastic:search:9200", "elastic:ftp://search"} {
		if _, err := elasticAt(bad, os.Getenv); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestFetchedIsGoneWhenClosed holds that what is fetched leaves no file behind.
func TestFetchedIsGoneWhenClosed(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	in, note, err := fetched(func(out io.Writer) (string, error) {
		_, err := io.WriteString(out, "lines")
		return "head", err
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(in)
	if string(text) != "lines" || note != "head" || err != nil {
		t.Errorf("read %q, %q, %v", text, note, err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := fetched(func(io.Writer) (string, error) { return "", fault.New(fault.NotFound, "there is none") }); !fault.Is(err, fault.NotFound) {
		t.Errorf("a copy that there is not: %v", err)
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
