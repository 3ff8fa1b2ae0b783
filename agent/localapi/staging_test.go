package localapi_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// TestATrainerOfAnotherUserSavesAndResumes: by the kernel's word on who it is, over
// the socket, with a process of that user writing and reading the files.
func TestATrainerOfAnotherUserSavesAndResumes(t *testing.T) {
	n := openNode(t)
	if err := os.Chmod(filepath.Dir(t.TempDir()), 0o755); err != nil { // the vault lies below it
		t.Fatal(err)
	}
	client, stranger := n.as(ada), n.as(bob)
	registered, err := client.Register(t.Context(), registration("hers", 0))
	if err != nil {
		t.Fatal(err)
	}
	session := registered.SessionId
	place, err := client.BeginCheckpoint(t.Context(), &trainerv1.BeginCheckpointRequest{SessionId: session})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Can(t, ada, `umask 077; echo weights >"$1/w"`, place.StagingDirectory)
	testkit.Cannot(t, bob, `cat "$1/w"`, place.StagingDirectory)
	testkit.Cannot(t, bob, `echo x >"$1/planted"`, place.StagingDirectory)
	if _, err := stranger.CommitCheckpoint(t.Context(), &trainerv1.CommitCheckpointRequest{SessionId: session, CheckpointId: place.CheckpointId}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another user commits: %v", err)
	}
	_, err = client.CommitCheckpoint(t.Context(), &trainerv1.CommitCheckpointRequest{SessionId: session, CheckpointId: place.CheckpointId,
		Metadata: &commonv1.CheckpointMetadata{WorldSize: 1, Step: 1}})
	if err != nil {
		t.Fatal(err)
	}
	var resume *trainerv1.ResolveResumeResponse
	testkit.Eventually(t, "her checkpoint", func() bool {
		resume, err = client.ResolveResume(t.Context(), &trainerv1.ResolveResumeRequest{SessionId: session, WorldSize: 1})
		return err == nil && resume.Checkpoint != nil
	})
	if got := testkit.Can(t, ada, `cat "$1/w"`, resume.Checkpoint.Directory); got != "weights\n" {
		t.Errorf("she goes on from %q", got)
	}
	testkit.Cannot(t, bob, `cat "$1/w"`, resume.Checkpoint.Directory)
	// Where the user cannot reach the place, the trainer is told what to do.
	if err := os.Chmod(filepath.Dir(t.TempDir()), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = client.BeginCheckpoint(t.Context(), &trainerv1.BeginCheckpointRequest{SessionId: session})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "chmod 711") || !strings.Contains(err.Error(), fmt.Sprint("user ", ada)) {
		t.Errorf("in a place that she cannot reach: %v", err)
	}
}
