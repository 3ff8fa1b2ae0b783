// Package s3 keeps objects in a bucket of any store that speaks Amazon's S3
// protocol.
package s3

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Config is what users say.
type Config struct {
	// Endpoint is host:port, for instance "s3.eu-central-1.amazonaws.com".
	Endpoint string `yaml:"endpoint"`
	// Bucket must be there.
	Bucket string `yaml:"bucket"`
	// Prefix begins every key, without a slash at its end; may be empty.
	Prefix string `yaml:"prefix"`
	// Region is the bucket's; empty: asked for.
	Region string `yaml:"region"`
	// AccessKeyEnv and SecretKeyEnv name the environment variables with the keys;
	// without either the usual places are looked in: AWS_ variables, files, the
	// instance's role.
	AccessKeyEnv string `yaml:"access_key_env"`
	SecretKeyEnv string `yaml:"secret_key_env"`
	// Insecure speaks HTTP rather than HTTPS.
	Insecure bool `yaml:"insecure"`
	// PartBytes is how much goes in one request of a large file, at least 5 MiB;
	// two parts are in memory at a time.
	PartBytes int64 `yaml:"part_bytes"`
}

const (
	minPartBytes = 5 << 20
	parallel     = 2
)

// Kind is the entry of the catalogue.
var Kind = plug.Of("s3", Config{PartBytes: 16 << 20}, New)

type store struct {
	config Config
	client *minio.Client
}

// New makes a store; it does not connect yet.
func New(config Config, deps blob.Deps) (blob.Store, error) {
	switch {
	case config.Endpoint == "" || config.Bucket == "":
		return nil, fault.New(fault.Invalid, "endpoint and bucket are needed")
	case (config.AccessKeyEnv == "") != (config.SecretKeyEnv == ""):
		return nil, fault.New(fault.Invalid, "access_key_env and secret_key_env go together")
	case config.PartBytes < minPartBytes:
		return nil, fault.New(fault.Invalid, "part_bytes is %d; want at least %d", config.PartBytes, minPartBytes)
	}
	client, err := minio.New(config.Endpoint, &minio.Options{
		Creds: keys(config, deps.Getenv), Secure: !config.Insecure, Region: config.Region, BucketLookup: minio.BucketLookupAuto,
	})
	if err != nil {
		return nil, fault.New(fault.Invalid, "endpoint %q: %w", config.Endpoint, err)
	}
	return &store{config, client}, nil
}

func keys(config Config, getenv func(string) string) *credentials.Credentials {
	if getenv == nil {
		getenv = os.Getenv
	}
	if config.AccessKeyEnv != "" {
		return credentials.NewStaticV4(getenv(config.AccessKeyEnv), getenv(config.SecretKeyEnv), "")
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
	})
}

func (s *store) name(key string) string {
	if s.config.Prefix == "" {
		return key
	}
	return s.config.Prefix + "/" + key
}

// Put keeps what is read; a large object in parts, which become one at its end.
func (s *store) Put(ctx context.Context, key string, in io.Reader, sizeBytes int64) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	exact := &exactly{in: in, left: sizeBytes}
	var body io.Reader = exact
	if sizeBytes <= s.config.PartBytes { // so that a wrong size never becomes an object
		data, err := io.ReadAll(exact)
		if err != nil {
			return fmt.Errorf("put %s: %w", key, err)
		}
		body = bytes.NewReader(data)
	}
	_, err := s.client.PutObject(ctx, s.config.Bucket, s.name(key), body, sizeBytes, minio.PutObjectOptions{
		PartSize: uint64(s.config.PartBytes), NumThreads: parallel, ContentType: "application/octet-stream",
	})
	if exact.wrong != nil {
		err = exact.wrong
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", key, kinded(err))
	}
	return nil
}

// exactly fails where there are fewer or more bytes than announced.
type exactly struct {
	in    io.Reader
	left  int64
	wrong error
}

// Read reads.
func (e *exactly) Read(p []byte) (int, error) {
	n, err := e.in.Read(p)
	e.left -= int64(n)
	if e.left < 0 || (err == io.EOF && e.left > 0) {
		e.wrong = fault.New(fault.Invalid, "there are %d bytes fewer than announced", e.left)
		return n, e.wrong
	}
	return n, err
}

// Get gives what is kept.
func (s *store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := blob.CheckKey(key); err != nil {
		return nil, err
	}
	object, err := s.client.GetObject(ctx, s.config.Bucket, s.name(key), minio.GetObjectOptions{})
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, kinded(err))
	}
	if _, err := object.Stat(); err != nil {
		_ = object.Close()
		return nil, fmt.Errorf("get %s: %w", key, kinded(err))
	}
	return object, nil
}

// List gives what is kept.
func (s *store) List(ctx context.Context, prefix string) ([]blob.Object, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing's task where it is left early
	var list []blob.Object
	for info := range s.client.ListObjects(ctx, s.config.Bucket, minio.ListObjectsOptions{Prefix: s.name(prefix), Recursive: true}) {
		if info.Err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, kinded(info.Err))
		}
		key := info.Key
		if s.config.Prefix != "" {
			key = strings.TrimPrefix(key, s.config.Prefix+"/")
		}
		list = append(list, blob.Object{Key: key, SizeBytes: info.Size})
	}
	return list, ctx.Err()
}

// Delete removes an object.
func (s *store) Delete(ctx context.Context, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	err := kinded(s.client.RemoveObject(ctx, s.config.Bucket, s.name(key), minio.RemoveObjectOptions{}))
	if err != nil && !fault.Is(err, fault.NotFound) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// kinded gives an error of the store its kind.
func kinded(err error) error {
	if err == nil || fault.KindOf(err) != fault.Internal {
		return err
	}
	switch answer := minio.ToErrorResponse(err); {
	case answer.Code == "NoSuchKey":
		return fault.Mark(fault.NotFound, err)
	case answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusUnauthorized:
		return fault.Mark(fault.Denied, err)
	case answer.StatusCode == http.StatusBadRequest || answer.Code == "NoSuchBucket":
		return fault.Mark(fault.Invalid, err)
	}
	return fault.Mark(fault.Unavailable, err)
}
