package api

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/testkit"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// The API is usable with nothing but Python's standard library.
func TestPythonStandardLibrary(t *testing.T) {
	python := testkit.Require(t, "python3")
	in := install(t)
	in.connectAgent(t)
	in.putRun(t, "r1", controlv1.RunState_RUN_STATE_RUNNING)
	t.Setenv("VIGIL_TOKEN", in.doors.Secret)
	out, err := exec.CommandContext(t.Context(), python, "testdata/client.py", "http://"+in.address).CombinedOutput()
	if err != nil {
		t.Fatalf("client.py: %v\n%s", err, out)
	}
	if last := strings.TrimSpace(string(out)); !strings.HasSuffix(last, "CHECKPOINT_STATE_VERIFIED") {
		t.Errorf("client.py ended with:\n%s", out)
	}
}
