package audit

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/bucket"
)

// fetch gives the copy that a bucket has, with its signed head.
func (b *bench) fetch(config BucketConfig) (text []byte, note string) {
	b.Helper()
	var out bytes.Buffer
	note, err := ReadBucket(b.Context(), config, &out)
	if err != nil && !fault.Is(err, fault.NotFound) {
		b.Fatal(err)
	}
	return out.Bytes(), note
}

// judge checks a copy against a head.
func (b *bench) judge(text []byte, notes ...string) trail.Report {
	b.Helper()
	report, err := trail.Verify(bytes.NewReader(text), trail.Options{Key: b.log.PublicKey(), Checkpoints: notes})
	if err != nil {
		b.Fatal(err)
	}
	return report
}

// TestBucketsFollow holds that a bucket has every record, also after restarts of
// the log, and that it shows what was cut off the log, or off the copy, and a part
// that is gone.
func TestBucketsFollow(t *testing.T) {
	config := BucketConfig{
		Endpoint: bucket.Start(t), Bucket: bucket.Name, Prefix: "audit/site", Region: bucket.Region, Plaintext: true,
		AccessKey: bucket.AccessKey, SecretKey: bucket.SecretKey, Interval: 10 * time.Millisecond,
	}
	b := open(t)
	run := func(records int) {
		t.Helper()
		b.log.config.Copies, b.log.config.Buckets = nil, []BucketConfig{config}
		group := life.NewGroup(t.Context())
		group.Go("audit", b.log.Run)
		testkit.Eventually(t, "the bucket", func() bool {
			text, note := b.fetch(config)
			return bytes.Count(text, []byte("\n")) == records+1 && strings.Contains(note, fmt.Sprintf("\n%d\n", records))
		})
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	total := 0
	for _, n := range []int{5, 4, 3} {
		b.write(n)
		total += n
		run(total)
		b.reopen()
	}
	text, note := b.fetch(config)
	if report := b.judge(text, note); report.Bad != nil || report.Records != 12 || report.Checkpoint != note {
		t.Errorf("the copy: %+v; its head\n%s", report, note)
	}
	if another := config; true {
		another.Prefix = "elsewhere"
		if _, err := ReadBucket(t.Context(), another, &bytes.Buffer{}); !fault.Is(err, fault.NotFound) {
			t.Errorf("a copy that there is not: %v", err)
		}
	}

	client, err := config.client()
	if err != nil {
		t.Fatal(err)
	}
	gone := func(first uint64) []byte {
		t.Helper()
		key := config.key(partName(first))
		whole, err := (&bucketCopy{config: config, client: client}).get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.RemoveObject(t.Context(), config.Bucket, key, minio.RemoveObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		return whole
	}
	middle := gone(5)
	text, _ = b.fetch(config)
	if report := b.judge(text, note); report.Bad == nil || report.Bad.Index != 5 {
		t.Errorf("without its second part: %v, want record 5", report.Bad)
	}
	if err := (&bucketCopy{config: config, client: client}).put(t.Context(), config.key(partName(5)), middle, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	end := gone(9)
	text, _ = b.fetch(config)
	if report := b.judge(text, note); report.Bad == nil || report.Bad.Index != 9 {
		t.Errorf("with its end cut off: %v, want record 9", report.Bad)
	}
	if err := (&bucketCopy{config: config, client: client}).put(t.Context(), config.key(partName(9)), end, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}

	// The store's end is cut off, and the log goes on from there: the bucket knows.
	text, _ = b.fetch(config)
	b.sql("DELETE FROM audit_records WHERE seq >= 8")
	b.sql("DELETE FROM audit_hashes WHERE position >= 15")
	b.sql("UPDATE audit_head SET size = 8")
	b.reopen()
	b.write(6)
	b.log.config.Copies, b.log.config.Buckets = nil, []BucketConfig{config}
	group := life.NewGroup(t.Context())
	group.Go("audit", b.log.Run)
	testkit.Eventually(t, "the bucket to say that the log was changed", func() bool {
		return testutil.ToFloat64(b.log.astray.WithLabelValues(config.name())) == 1
	})
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if report := b.verify(trail.Options{Copy: bytes.NewReader(text)}); report.Bad == nil || report.Bad.Index != 8 {
		t.Errorf("the log against the bucket: %v, want record 8", report.Bad)
	}
	if after, _ := b.fetch(config); !bytes.Equal(after, text) {
		t.Error("the copy was changed by a log that is another")
	}
}

// TestTwoWriteOneBucket holds that of two replicas that bring records to the same
// bucket none writes over what the other wrote.
func TestTwoWriteOneBucket(t *testing.T) {
	config := BucketConfig{
		Endpoint: bucket.Start(t), Bucket: bucket.Name, Region: bucket.Region, Plaintext: true,
		AccessKey: bucket.AccessKey, SecretKey: bucket.SecretKey,
	}
	b := open(t)
	b.write(4)
	var both [2]copier
	for i := range both {
		var err error
		if both[i], err = openBucket(t.Context(), config, b.log.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.log.bring(t.Context(), "one", both[0]); err != nil {
		t.Fatal(err)
	}
	b.write(2)
	if err := b.log.bring(t.Context(), "two", both[1]); err == nil {
		t.Error("the second wrote over what the first had written")
	}
	again, err := openBucket(t.Context(), config, b.log.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.log.bring(t.Context(), "two", again); err != nil {
		t.Fatal(err)
	}
	text, note := b.fetch(config)
	if report := b.judge(text, note); report.Bad != nil || report.Records != 6 {
		t.Errorf("the copy: %+v", report)
	}
	if _, err := openBucket(t.Context(), config, "vigil/audit/another+00000000+AAAA"); !fault.Is(err, fault.Precondition) {
		t.Errorf("another log took the copy: %v", err)
	}
}
