package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/export/elastic"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Places of copies that are no paths.
const (
	bucketScheme  = "s3://"
	elasticScheme = "elastic:"
)

// openCopy opens a copy of the audit log wherever it is: a file, a directory of
// audit.copies, s3://BUCKET/PREFIX of audit.buckets, or elastic:URL/NAMESPACE of
// an exporter. It gives its last signed head too, where one lies beside it.
func openCopy(ctx context.Context, where, key string) (records io.ReadCloser, checkpoint string, err error) {
	switch {
	case strings.HasPrefix(where, bucketScheme):
		config, err := bucketAt(where, os.Getenv)
		if err != nil {
			return nil, "", err
		}
		return fetched(func(out io.Writer) (string, error) { return audit.ReadBucket(ctx, config, out) })
	case strings.HasPrefix(where, elasticScheme):
		config, err := elasticAt(where, os.Getenv)
		if err != nil {
			return nil, "", err
		}
		return fetched(func(out io.Writer) (string, error) { return "", elastic.ReadAudit(ctx, config, key, out) })
	}
	path, checkpoint, err := audit.CopyFiles(where)
	if err != nil {
		return nil, "", err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, "", fmt.Errorf("open audit copy: %w", err)
	}
	return file, checkpoint, nil
}

// bucketAt reads where a bucket is. Keys are found as all of Amazon's tools find
// them; AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names another store than theirs.
func bucketAt(where string, getenv func(string) string) (audit.BucketConfig, error) {
	bucket, prefix, _ := strings.Cut(strings.TrimPrefix(where, bucketScheme), "/")
	config := audit.BucketConfig{Endpoint: "s3.amazonaws.com", Bucket: bucket, Prefix: strings.TrimSuffix(prefix, "/"), Region: getenv("AWS_REGION")}
	if text := cmp.Or(getenv("AWS_ENDPOINT_URL_S3"), getenv("AWS_ENDPOINT_URL")); text != "" {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" {
			return config, fault.New(fault.Invalid, "AWS_ENDPOINT_URL is %q; want a URL", text)
		}
		config.Endpoint, config.Plaintext = u.Host, u.Scheme == "http"
	}
	if bucket == "" {
		return config, fault.New(fault.Invalid, "%q names no bucket; want s3://BUCKET/PREFIX", where)
	}
	return config, nil
}

// elasticAt reads where an Elasticsearch is; ELASTIC_API_KEY, or ELASTIC_USERNAME
// and ELASTIC_PASSWORD, prove who asks.
func elasticAt(where string, getenv func(string) string) (elastic.Config, error) {
	config := elastic.Defaults()
	u, err := url.Parse(strings.TrimPrefix(where, elasticScheme))
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return config, fault.New(fault.Invalid, "%q is no place of a copy; want elastic:https://HOST:9200/NAMESPACE", where)
	}
	config.Namespace = cmp.Or(strings.Trim(u.Path, "/"), config.Namespace)
	config.Addresses = []string{u.Scheme + "://" + u.Host}
	config.SetUp = false
	config.APIKey, config.Username = notify.Secret(getenv("ELASTIC_API_KEY")), getenv("ELASTIC_USERNAME")
	config.Password = notify.Secret(getenv("ELASTIC_PASSWORD"))
	return config, nil
}

// fetched brings a copy into a file that is gone when it is closed.
func fetched(write func(io.Writer) (checkpoint string, err error)) (io.ReadCloser, string, error) {
	file, err := os.CreateTemp("", "audit-copy-*.jsonl")
	if err != nil {
		return nil, "", fmt.Errorf("fetch audit copy: %w", err)
	}
	checkpoint, err := write(file)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	err = errors.Join(err, os.Remove(file.Name()))
	if err != nil {
		return nil, "", errors.Join(err, file.Close())
	}
	return file, checkpoint, nil
}
