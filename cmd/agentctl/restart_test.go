package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

	"github.com/vigil-ml/vigil/controlplane/store"
)

// A control plane that is restarted while a person waits costs the person
// nothing: the checkpoint is found again.
func TestWaitOutlivesARestartOfTheControlPlane(t *testing.T) {
	in := install(t, t.TempDir(), t.Cleanup)
	if err := putRun(in, []string{"r1", "running", "n1"}); err != nil {
		t.Fatal(err)
	}
	if err := connectAgent(in, []string{"n1", "silent"}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VIGIL_TOKEN", in.doors.Secret)
	read, write := io.Pipe()
	var stderr strings.Builder
	done := make(chan int, 1)
	go func() {
		done <- run(t.Context(), []string{"--server", in.address, "checkpoint", "--now", "--wait"}, write, &stderr)
		_ = write.Close()
	}()
	lines := bufio.NewScanner(read)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "requested") {
		t.Fatalf("first line %q", lines.Text())
	}
	in.stop()
	err := in.store.Update(t.Context(), func(tx *store.Tx) error {
		checkpoints, err := tx.Checkpoints("r1", 1)
		if err != nil {
			return err
		}
		_, err = tx.AdvanceCheckpoint(&commonv1.CheckpointProgress{
			CheckpointId: checkpoints[0].CheckpointId, State: commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED,
		}, "r1", 0, 1, "n1", checkpoints[0].Stages[0].Time.AsTime())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", in.address)
	if err != nil {
		t.Fatal(err)
	}
	in.serve(t, listener)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "verified") {
		t.Errorf("after the restart %q", lines.Text())
	}
	if code := <-done; code != 0 {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}
