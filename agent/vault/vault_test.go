package vault_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDirEnv); dir != "" {
		sealAndDie(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// bench is a vault with what a test looks at.
type bench struct {
	*vault.Vault
	t      testing.TB
	dir    string
	spans  *tracetest.SpanRecorder
	mu     sync.Mutex
	events []*commonv1.Event
}

// open opens a vault below a directory, on which an earlier one may have been.
func open(t testing.TB, dir string, fsys durable.FS, change ...func(*vault.Config)) *bench {
	t.Helper()
	return openWith(t, dir, fsys, nil, change...)
}

// openWith opens one with a second store.
func openWith(t testing.TB, dir string, fsys durable.FS, second blob.Store, change ...func(*vault.Config)) *bench {
	t.Helper()
	return openDeps(t, dir, func(d *vault.Deps) { d.FS, d.Replica = fsys, second }, change...)
}

// openDeps opens one with other dependencies.
func openDeps(t testing.TB, dir string, deps func(*vault.Deps), change ...func(*vault.Config)) *bench {
	t.Helper()
	b := &bench{t: t, dir: dir, spans: tracetest.NewSpanRecorder()}
	config := vault.Defaults(filepath.Join(dir, "vault"))
	config.StagingDir = filepath.Join(dir, "staging")
	config.Retries, config.RetryDelay = 0, time.Millisecond
	for _, c := range change {
		c(&config)
	}
	all := vault.Deps{
		Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), FS: durable.OS{}, Clock: time.Now, Node: "n1",
		Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(b.spans)).Tracer("test"),
		Events: func(_ context.Context, _ string, events ...*commonv1.Event) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, events...)
			return nil
		},
	}
	deps(&all)
	v, err := vault.New(config, all)
	if err != nil {
		t.Fatalf("open vault: %v", err)
	}
	b.Vault = v
	return b
}

// run seals in the background until the test or the returned function ends it.
func (b *bench) run() (stop func()) {
	group := life.NewGroup(context.Background())
	group.Go("vault", b.Run)
	stop = sync.OnceFunc(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			b.t.Errorf("run vault: %v", err)
		}
	})
	b.t.Cleanup(stop)
	return stop
}

// states gives a checkpoint's states in the order in which they were told.
func (b *bench) states(id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var states []string
	for _, e := range b.events {
		if c := e.GetCheckpoint(); c.GetCheckpointId() == id {
			states = append(states, strings.TrimPrefix(c.State.String(), "CHECKPOINT_STATE_"))
		}
	}
	return strings.Join(states, " ")
}

// last gives the last event of a checkpoint.
func (b *bench) last(id string) *commonv1.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := len(b.events) - 1; i >= 0; i-- {
		if b.events[i].GetCheckpoint().GetCheckpointId() == id {
			return b.events[i]
		}
	}
	return &commonv1.Event{}
}

func (b *bench) wait(id, state string) {
	b.t.Helper()
	testkit.Eventually(b.t, "checkpoint "+id+" to be "+state, func() bool {
		return strings.HasSuffix(b.states(id), state)
	})
}

// part is one rank's part of a checkpoint in a test.
type part struct {
	id                 string
	rank, world        uint32
	step               int64
	nonfinite          *int64
	attempt            uint32
	files              map[string]string
	reason             commonv1.CheckpointReason
	command, traceback string
	metric             *float64
	exact              bool
}

func healthy(id string, step int64) part {
	return part{id: id, world: 1, step: step, nonfinite: proto.Int64(0),
		files: map[string]string{"weights.bin": strings.Repeat("w", 3000) + id, "optimizer/state": "m" + id}}
}

func (p part) metadata() *commonv1.CheckpointMetadata {
	return &commonv1.CheckpointMetadata{
		Step: p.step, DataPosition: p.step * 32, WorldSize: p.world, Rank: p.rank,
		NonfiniteParameters: p.nonfinite, Format: "test/1", Metric: p.metric, Exact: p.exact,
	}
}

// save begins, writes and commits.
func (b *bench) save(p part) error {
	b.t.Helper()
	_, dir, err := b.Begin(b.t.Context(), vault.BeginRequest{
		RunID: "run", CheckpointID: p.id, Attempt: p.attempt, Rank: p.rank, Reason: p.reason,
		CommandID: p.command, Traceparent: p.traceback,
	})
	if err != nil {
		return err
	}
	writeFiles(b.t, dir, p.files)
	return b.Commit(b.t.Context(), vault.CommitRequest{RunID: "run", CheckpointID: p.id, Rank: p.rank, Metadata: p.metadata()})
}

func (b *bench) mustSave(parts ...part) {
	b.t.Helper()
	for _, p := range parts {
		if err := b.save(p); err != nil {
			b.t.Fatalf("save %s: %v", p.id, err)
		}
	}
}

func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func readFiles(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// resolve gives the id that is resumed from, "" for none, and "id: reason" of
// what was passed over.
func (b *bench) resolve(rank, world uint32) (string, []string) {
	b.t.Helper()
	ref, passed, err := b.Resolve(b.t.Context(), vault.ResolveRequest{RunID: "run", Rank: rank, WorldSize: world})
	if err != nil {
		b.t.Fatalf("resolve: %v", err)
	}
	var reasons []string
	for _, p := range passed {
		reasons = append(reasons, p.CheckpointId+": "+p.Reason)
	}
	return ref.GetCheckpointId(), reasons
}

func TestRoundTrip(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{})
	b.run()
	p := healthy("ck", 7)
	p.reason, p.command = commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY, "cmd"
	p.traceback = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	b.mustSave(p)
	b.wait("ck", "VERIFIED")
	if got := b.states("ck"); got != "STAGED DURABLE VERIFIED" {
		t.Errorf("states: %s", got)
	}
	ref, passed, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Rank: 0, WorldSize: 1})
	if err != nil || len(passed) > 0 {
		t.Fatalf("resolve: %v, passed over %v", err, passed)
	}
	if diff := cmp.Diff(p.files, readFiles(t, ref.Directory)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if !proto.Equal(ref.Metadata, p.metadata()) || ref.Health != commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY {
		t.Errorf("ref = %v", ref)
	}
	last := b.last("ck")
	progress := last.GetCheckpoint()
	if progress.CommandId != "cmd" || progress.Reason != p.reason || progress.Step != 7 || progress.SizeBytes != 3005 ||
		progress.Path != filepath.Dir(ref.Directory) || len(progress.ManifestSha256) != 64 {
		t.Errorf("progress = %v", progress)
	}
	if !strings.Contains(last.Traceparent, "0af7651916cd43dd8448eb211c80319c") || last.Traceparent == p.traceback {
		t.Errorf("traceparent of the event is %q; want a span of the trace", last.Traceparent)
	}
	var spans []string
	for _, s := range b.spans.Ended() {
		spans = append(spans, s.Name()+" "+s.Parent().SpanID().String())
	}
	if diff := cmp.Diff([]string{"vigil.seal b7ad6b7169203331", "vigil.verify b7ad6b7169203331"}, spans); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	if latest, err := os.ReadFile(filepath.Join(b.dir, "vault/run/latest")); err != nil || string(latest) != "ck\n" {
		t.Errorf("latest = %q, %v", latest, err)
	}
	testkit.Eventually(t, "staging to be empty", func() bool {
		entries, err := os.ReadDir(filepath.Join(b.dir, "staging"))
		return err == nil && len(entries) == 0
	})
	if !b.Saved("run", "ck") || b.Saved("run", "other") {
		t.Error("Saved does not tell what is in the vault")
	}
}

func TestRepeatedCalls(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{})
	commit := vault.CommitRequest{RunID: "run", CheckpointID: "ck", Metadata: healthy("ck", 1).metadata()}
	if err := b.Commit(t.Context(), commit); err == nil {
		t.Error("a commit without a begin was taken")
	}
	_, first, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: "ck"})
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, first, map[string]string{"left": "over"})
	b.mustSave(healthy("ck", 1)) // begins again: what was there is gone
	for range 2 {
		if err := b.Commit(t.Context(), commit); err != nil {
			t.Errorf("repeated commit: %v", err)
		}
		if _, _, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: "ck"}); err == nil {
			t.Error("a committed checkpoint was begun again")
		}
		b.run()
		b.wait("ck", "VERIFIED")
	}
	ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Rank: 0, WorldSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(healthy("ck", 1).files, readFiles(t, ref.Directory)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got := b.states("ck"); got != "STAGED DURABLE VERIFIED" {
		t.Errorf("states: %s", got)
	}
}

func TestGivenIDsAreOrderedInTime(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{})
	last := ""
	for range 3 {
		id, dir, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run"})
		if err != nil {
			t.Fatal(err)
		}
		if id <= last {
			t.Errorf("id %s does not come after %s", id, last)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("directory: %v, %v", entries, err)
		}
		last = id
	}
}

func TestStagedIsBounded(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, func(c *vault.Config) { c.MaxStaged = 2 })
	for i, want := range []bool{true, true, false} {
		if _, _, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", Rank: uint32(i)}); (err == nil) != want {
			t.Errorf("begin %d: %v", i, err)
		}
	}
	// A later attempt of a rank takes the place of what its earlier one began.
	if _, _, err := b.Begin(t.Context(), vault.BeginRequest{RunID: "run", Rank: 1, Attempt: 1}); err != nil {
		t.Errorf("begin of a later attempt: %v", err)
	}
}

func TestMemoryStaging(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, func(c *vault.Config) { c.StagingDir = "" })
	begin := func(run string, size int64) string {
		_, dir, err := b.Begin(t.Context(), vault.BeginRequest{RunID: run, SizeBytes: size})
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	small := begin("run", 1)
	if !strings.HasPrefix(small, "/dev/shm/") {
		t.Skipf("memory cannot be used here: staged at %s", small)
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(small, "../../../..")) })
	for size, where := range map[int64]string{0: b.dir, 1 << 60: b.dir} {
		if dir := begin("unknown", size); !strings.HasPrefix(dir, where) {
			t.Errorf("%d bytes staged at %s", size, dir)
		}
	}
	b.mustSave(healthy("ck", 1))
	if dir := begin("run", 0); !strings.HasPrefix(dir, "/dev/shm/") {
		t.Errorf("the size of the last checkpoint is known, and it was staged at %s", dir)
	}
	b.run()
	b.wait("ck", "VERIFIED")
	b.resolve(0, 1) // waits until the staging directory is gone
	if staged, err := filepath.Glob(filepath.Join(small, "../../../../*/ck")); err != nil || len(staged) > 0 {
		t.Errorf("left in memory: %v, %v", staged, err)
	}
}

func TestConfigCheck(t *testing.T) {
	var keys []string
	vault.Config{Retries: -1}.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
	if len(keys) != 9 {
		t.Errorf("reported %v", keys)
	}
	vault.Defaults("d").Check(func(key, format string, _ ...any) { t.Errorf("defaults: %s %s", key, format) })
}
