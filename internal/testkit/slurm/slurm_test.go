package slurm_test

import (
	"testing"

	"github.com/vigil-ml/vigil/internal/testkit/slurm"
)

func TestTasksRun(t *testing.T) {
	c := slurm.Start(t)
	text, err := c.Run("srun", "-Q", "-n", "2", "sh", "-c", "echo $SLURMD_NODENAME")
	if want := slurm.Node + "\n" + slurm.Node; err != nil || text != want {
		t.Errorf("two tasks said %q, %v; want %q", text, err, want)
	}
}
