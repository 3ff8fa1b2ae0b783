package vault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestSealsWhatAnEarlierAgentLeft(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, durable.OS{})
	first.mustSave(healthy("b", 1), healthy("a", 2)) // and no Run: the agent dies here
	second := open(t, dir, durable.OS{})
	second.run()
	if id, passed := second.resolve(0, 1); id != "a" || len(passed) > 0 {
		t.Errorf("resolved %q, passed over %v; want a, which is waited for", id, passed)
	}
	for _, id := range []string{"a", "b"} {
		second.wait(id, "DURABLE VERIFIED")
	}
	if first := second.events[0].GetCheckpoint().GetCheckpointId(); first != "b" {
		t.Errorf("sealed %s first; want the order of the commits", first)
	}
}

func TestSealsAfterAnInterruptedWait(t *testing.T) {
	b := open(t, t.TempDir(), durable.OS{}, func(c *vault.Config) { c.ResolveWait = time.Millisecond })
	b.mustSave(healthy("a", 1))
	id, passed := b.resolve(0, 1)
	if diff := cmp.Diff([]string{"a: it is still being sealed"}, passed); id != "" || diff != "" {
		t.Errorf("resolved %q; passed over (-want +got):\n%s", id, diff)
	}
}

func TestRemovesWhatNobodyWillCommit(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, durable.OS{})
	stage := map[string]string{}
	for _, id := range []string{"old", "young", "writing"} {
		_, files, err := first.Begin(t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: id, Ordered: true})
		if err != nil {
			t.Fatal(err)
		}
		writeFiles(t, files, map[string]string{"f": "x"})
		stage[id] = files
	}
	// As if old and writing had been begun long ago, and writing were still
	// written to.
	past := time.Now().Add(-7 * time.Hour)
	for _, id := range []string{"old", "writing"} {
		ticket := filepath.Join(filepath.Dir(stage[id]), "begin.json")
		data, err := os.ReadFile(ticket)
		begun := string(data[strings.Index(string(data), `"begun": "`):])
		err = errors.Join(err, os.WriteFile(ticket, []byte(strings.Replace(string(data), begun,
			fmt.Sprintf("\"begun\": %q}", past.Format(time.RFC3339Nano)), 1)), 0o600))
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{stage["old"], filepath.Join(stage["old"], "f")} {
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
	}
	lost := filepath.Join(dir, "staging/run/lost/rank-00000")
	if err := os.MkdirAll(lost, 0o700); err != nil {
		t.Fatal(err)
	}

	second := open(t, dir, durable.OS{})
	for id, want := range map[string]bool{"old": false, "young": true, "writing": true} {
		if _, err := os.Stat(stage[id]); (err == nil) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
	if _, err := os.Stat(lost); err != nil {
		t.Errorf("a young directory without a ticket is gone: %v", err)
	}
	// The trainer outlived the agent and commits now.
	err := second.Commit(t.Context(), vault.CommitRequest{RunID: "run", CheckpointID: "young", Metadata: healthy("young", 3).metadata()})
	if err != nil {
		t.Fatal(err)
	}
	second.run()
	second.wait("young", "VERIFIED")
}

// The environment of a child that seals and dies at the operation with a
// number.
const (
	killDirEnv = "VIGIL_TEST_KILL_DIR"
	killAtEnv  = "VIGIL_TEST_KILL_AT"
)

// sealAndDie is the child: it seals what is staged, and SIGKILL comes right
// before the operation of the given number.
func sealAndDie(dir string) {
	at, _ := strconv.Atoi(os.Getenv(killAtEnv))
	fsys := faultfs.New()
	config := vault.Defaults(filepath.Join(dir, "vault"))
	config.StagingDir = filepath.Join(dir, "staging")
	done := make(chan struct{})
	v, err := vault.New(config, vault.Deps{
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: prometheus.NewRegistry(), FS: fsys, Clock: time.Now,
		Tracer: noop.NewTracerProvider().Tracer(""),
		Events: func(context.Context, string, ...*commonv1.Event) error { return nil },
		Observe: func(e *commonv1.Event) {
			if e.GetCheckpoint().State == commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED {
				close(done)
			}
		},
	})
	if err != nil {
		panic(err)
	}
	n := 0
	fsys.FailWith(func(faultfs.Op, string) error {
		if n++; n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	stop := make(chan error)
	go func() { stop <- v.Run(ctx) }()
	<-done
	cancel()
	<-stop
}

// Whatever operation the agent is killed at, the checkpoint is whole after the
// next start, and before that it is not resumed from unless it is.
func TestKillAtEveryOperation(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for at := 1; ; at++ {
		dir := t.TempDir()
		p := healthy("ck", 7)
		open(t, dir, durable.OS{}).mustSave(p)
		child := exec.Command(self)
		child.Env = append(os.Environ(), killDirEnv+"="+dir, killAtEnv+"="+strconv.Itoa(at))
		err := child.Run()
		exit, died := errors.AsType[*exec.ExitError](err)
		if died && exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("child: %v", err)
		}

		hasty := open(t, dir, durable.OS{}, func(c *vault.Config) { c.ResolveWait = time.Nanosecond })
		checkResolved(t, hasty, p)
		b := open(t, dir, durable.OS{})
		b.run()
		if id, passed := b.resolve(0, 1); id != "ck" {
			t.Errorf("killed at operation %d: resolved %q, passed over %v", at, id, passed)
		}
		checkResolved(t, b, p)
		if entries, err := os.ReadDir(filepath.Join(dir, "vault/run")); err != nil || len(entries) != 2 {
			t.Errorf("killed at operation %d: the run holds %v, %v; want ck and latest", at, entries, err)
		}
		if !died {
			if at < 15 {
				t.Errorf("sealing took only %d operations: the test does not see them", at)
			}
			return
		}
	}
}

// checkResolved fails when what is resumed from is not what was saved.
func checkResolved(t *testing.T, b *bench, p part) {
	t.Helper()
	ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Rank: p.rank, WorldSize: p.world})
	if err != nil {
		t.Fatalf("resolve: %v", err)
	}
	if ref == nil {
		return
	}
	if diff := cmp.Diff(p.files, readFiles(t, ref.Directory)); diff != "" {
		t.Errorf("resolved to files that were not saved (-want +got):\n%s", diff)
	}
}
