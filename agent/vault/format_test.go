package vault_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// The page about the format shows a manifest; these are its bytes.
func TestManifestIsAsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/formats/checkpoint.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```json\n")
	documented, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the page shows no manifest")
	}
	dir := t.TempDir()
	config := vault.Defaults(dir)
	config.StagingDir = filepath.Join(dir, ".staging")
	v, err := vault.New(config, vault.Deps{
		Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), FS: durable.OS{}, Tracer: noop.NewTracerProvider().Tracer(""),
		Clock:  func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC) },
		Events: func(context.Context, string, ...*commonv1.Event) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	const id = "0198c0de-0000-7000-8000-000000000001"
	_, files, err := v.Begin(t.Context(), vault.BeginRequest{RunID: "digits-1", CheckpointID: id,
		Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY})
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, files, map[string]string{"state.bin": "hello"})
	err = v.Commit(t.Context(), vault.CommitRequest{RunID: "digits-1", CheckpointID: id, Metadata: &commonv1.CheckpointMetadata{
		Step: 120, DataPosition: 3840, WorldSize: 1, NonfiniteParameters: proto.Int64(0), Format: "vigil-multitask/2"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	ref, _, err := v.Resolve(t.Context(), vault.ResolveRequest{RunID: "digits-1", Rank: 0, WorldSize: 1})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err != nil || ref.GetCheckpointId() != id {
		t.Fatalf("resolve: %v, %v", ref, err)
	}
	written, err := os.ReadFile(filepath.Join(dir, "digits-1", id, "rank-00000", "manifest.json"))
	if diff := cmp.Diff(documented, string(written)); err != nil || diff != "" {
		t.Errorf("%v; manifest (-documented +written):\n%s", err, diff)
	}
	mark, err := os.ReadFile(filepath.Join(dir, "digits-1", id, "rank-00000", "verified.json"))
	if err != nil || !strings.HasPrefix(string(mark), `{"manifest_sha256":"`) || !strings.HasSuffix(string(mark), "\"verified\":\"2026-01-02T03:04:05.678901234Z\"}\n") {
		t.Errorf("mark %q, %v", mark, err)
	}
}
