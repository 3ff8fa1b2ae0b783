package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/pki"
)

// BucketConfig is a copy of the log in a store that speaks Amazon's S3 protocol.
type BucketConfig struct {
	// Endpoint is host:port, for instance "s3.eu-central-1.amazonaws.com".
	Endpoint string `yaml:"endpoint"`
	// Bucket must be there.
	Bucket string `yaml:"bucket"`
	// Prefix begins every key, without a slash at its end; may be empty.
	Prefix string `yaml:"prefix"`
	// Region is the bucket's; empty: asked for.
	Region string `yaml:"region"`
	// AccessKey and SecretKey; without them the usual places are looked in: AWS_
	// variables, files, the instance's role.
	AccessKey notify.Secret `yaml:"access_key"`
	SecretKey notify.Secret `yaml:"secret_key"`
	// Plaintext speaks HTTP rather than HTTPS.
	Plaintext bool `yaml:"plaintext"`
	// CAFile has the certificates, in PEM, that the store's is signed by; empty
	// means those that the machine trusts.
	CAFile string `yaml:"ca_file"`
	// Interval is the least time between two objects: how far the copy may be
	// behind. 0 means 10s.
	Interval time.Duration `yaml:"interval"`
}

const bucketPause = 10 * time.Second

// Check reports what is missing.
func (c BucketConfig) Check(report func(key, format string, args ...any)) {
	if c.Endpoint == "" || strings.Contains(c.Endpoint, "/") {
		report("endpoint", "is %q; want host:port", c.Endpoint)
	}
	if c.Bucket == "" {
		report("bucket", "is empty; name one that is there")
	}
	if (c.AccessKey == "") != (c.SecretKey == "") {
		report("access_key", "and secret_key go together")
	}
	if c.Interval < 0 {
		report("interval", "is %s; want 0 or more", c.Interval)
	}
}

func (c BucketConfig) name() string { return "s3://" + path.Join(c.Bucket, c.Prefix) }

func (c BucketConfig) pause() time.Duration { return cmp.Or(c.Interval, bucketPause) }

func (c BucketConfig) key(name string) string { return path.Join(c.Prefix, name) }

// client opens the store; it does not connect yet.
func (c BucketConfig) client() (*minio.Client, error) {
	options := &minio.Options{Secure: !c.Plaintext, Region: c.Region}
	if c.AccessKey != "" {
		access, err := c.AccessKey.Reveal()
		if err != nil {
			return nil, err
		}
		secret, err := c.SecretKey.Reveal()
		if err != nil {
			return nil, err
		}
		options.Creds = credentials.NewStaticV4(access, secret, "")
	} else {
		options.Creds = credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
		})
	}
	if c.CAFile != "" {
		pool, err := pki.PoolOf(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", c.name(), err)
		}
		transport, err := minio.DefaultTransport(true) // with its limits of time
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", c.name(), err)
		}
		transport.TLSClientConfig.RootCAs, options.Transport = pool, transport
	}
	client, err := minio.New(c.Endpoint, options)
	if err != nil {
		return nil, fault.New(fault.Invalid, "open %s: %w", c.name(), err)
	}
	return client, nil
}

// bucketCopy is a copy of the log in a bucket: parts, each an object that is written
// once and named by its first record, and the last signed head.
type bucketCopy struct {
	config BucketConfig
	client *minio.Client
	public string
	next   uint64
	last   trail.Entry
}

// partsName is the folder of the parts; an object's name is the number of its
// first record, so that they are listed in order.
const partsName = "parts/"

func partName(first uint64) string { return fmt.Sprintf("%s%020d.jsonl", partsName, first) }

// openBucket opens a copy and finds where it ends.
func openBucket(ctx context.Context, config BucketConfig, public string) (*bucketCopy, error) {
	client, err := config.client()
	if err != nil {
		return nil, err
	}
	b := &bucketCopy{config: config, client: client, public: public}
	parts, err := b.parts(ctx)
	if err != nil || len(parts) == 0 {
		return b, err
	}
	data, err := b.get(ctx, parts[len(parts)-1])
	if err != nil {
		return nil, err
	}
	r, err := trail.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("open audit copy %s: %w", config.name(), err)
	}
	if r.Header.Key != public {
		return nil, fault.WithHint(fault.New(fault.Precondition, "open audit copy %s: it is a copy of another log, of key %s", config.name(), r.Header.Key),
			"give the log's own key back (audit.key_file), or name another prefix in audit.buckets")
	}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, fmt.Errorf("open audit copy %s: %w", config.name(), err)
		}
		b.last, b.next = e, e.Seq+1
	}
}

// parts gives the names of all parts, in the order of their records.
func (b *bucketCopy) parts(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing when it is left
	var names []string
	prefix := b.config.key(partsName) + "/"
	for object := range b.client.ListObjects(ctx, b.config.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if object.Err != nil {
			return nil, fault.New(fault.Unavailable, "list audit copy %s: %w", b.config.name(), object.Err)
		}
		names = append(names, object.Key)
	}
	return names, nil
}

func (b *bucketCopy) get(ctx context.Context, key string) ([]byte, error) {
	object, err := b.client.GetObject(ctx, b.config.Bucket, key, minio.GetObjectOptions{})
	if err == nil {
		var data []byte
		data, err = io.ReadAll(object)
		if err = errors.Join(err, object.Close()); err == nil {
			return data, nil
		}
	}
	if answer, ok := errors.AsType[minio.ErrorResponse](err); ok && answer.Code == minio.NoSuchKey {
		return nil, fault.New(fault.NotFound, "read %s of audit copy %s: %w", key, b.config.name(), err)
	}
	return nil, fault.New(fault.Unavailable, "read %s of audit copy %s: %w", key, b.config.name(), err)
}

// end gives the place behind the last record, and that record.
func (b *bucketCopy) end() (next uint64, last trail.Entry) { return b.next, b.last }

// add writes a part, never over one that is there.
func (b *bucketCopy) add(ctx context.Context, entries []trail.Entry) error {
	first := entries[0].Seq
	text, err := trail.AppendHeader(nil, trail.Header{Version: 1, Key: b.public, First: first})
	if err != nil {
		return err
	}
	for _, e := range entries {
		text = trail.AppendEntry(text, e)
	}
	only := minio.PutObjectOptions{ContentType: "application/jsonl"}
	only.SetMatchETagExcept("*") // another replica may have written it; then this one looks again
	if err := b.put(ctx, b.config.key(partName(first)), text, only); err != nil {
		return err
	}
	b.last = entries[len(entries)-1]
	b.next = b.last.Seq + 1
	return nil
}

// mark writes the signed head.
func (b *bucketCopy) mark(ctx context.Context, note string) error {
	return b.put(ctx, b.config.key(checkpointName), []byte(note), minio.PutObjectOptions{ContentType: "text/plain; charset=utf-8"})
}

func (b *bucketCopy) put(ctx context.Context, key string, data []byte, options minio.PutObjectOptions) error {
	options.DisableMultipart = true
	if _, err := b.client.PutObject(ctx, b.config.Bucket, key, bytes.NewReader(data), int64(len(data)), options); err != nil {
		return fault.New(fault.Unavailable, "write %s of audit copy %s: %w", key, b.config.name(), err)
	}
	return nil
}

func (b *bucketCopy) close() error { return nil }

// ReadBucket writes the copy that a bucket has as one, and gives its last signed
// head; "" when there is none. It fails with [fault.NotFound] when the bucket has
// no copy. What is wrong with the records it leaves to the verifier.
func ReadBucket(ctx context.Context, config BucketConfig, out io.Writer) (checkpoint string, err error) {
	client, err := config.client()
	if err != nil {
		return "", err
	}
	b := &bucketCopy{config: config, client: client}
	parts, err := b.parts(ctx)
	if err != nil {
		return "", err
	}
	if len(parts) == 0 {
		return "", fault.New(fault.NotFound, "read audit copy %s: there is none", config.name())
	}
	for n, part := range parts {
		text, err := b.get(ctx, part)
		if err != nil {
			return "", err
		}
		header, rest, _ := bytes.Cut(text, []byte("\n"))
		if n == 0 {
			rest = text
		} else if r, err := trail.NewReader(bytes.NewReader(append(header, '\n'))); err != nil || partOf(config, r.Header.First) != part {
			return "", fault.New(fault.Corrupt, "read audit copy %s: %s is no part of it", config.name(), part)
		}
		if _, err := out.Write(rest); err != nil {
			return "", err
		}
	}
	note, err := b.get(ctx, config.key(checkpointName))
	if fault.Is(err, fault.NotFound) {
		return "", nil
	}
	return string(note), err
}

func partOf(config BucketConfig, first uint64) string { return config.key(partName(first)) }
