package supervise

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/slurm"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// launcher starts two ranks, each with a helper that left its process group.
type launcher struct {
	command func() []string // before what they do, and where they write
	environ []string
}

// torchrun is PyTorch's own, with two ranks over gloo.
func torchrun(t *testing.T) launcher {
	testkit.Require(t, "torchrun", "/usr/bin/torchrun")
	dir := t.TempDir()
	return launcher{command: func() []string {
		return []string{"/usr/bin/python3", "-m", "torch.distributed.run", "--nproc_per_node=2",
			"--master_addr=127.0.0.1", "--master_port=" + testkit.FreePort(t),
			// PyTorch 1.13 on Python 3.11 knows only these two values.
			"--redirects=1", "--tee=1", "--log_dir=" + dir, "testdata/ranks.py"}
	}, environ: []string{"OMP_NUM_THREADS=1", "PYTHONNOUSERSITE=1"}}
}

func mpirun(t *testing.T) launcher {
	program := testkit.Require(t, "mpirun")
	return launcher{command: func() []string {
		return []string{program, "--allow-run-as-root", "--oversubscribe", "-n", "2",
			"sh", "-c", `exec sh testdata/ranks.sh "$1" "$2" $OMPI_COMM_WORLD_RANK`, "rank"}
	}}
}

// srun runs its steps in an allocation, as in a batch script.
func srun(t *testing.T) launcher {
	cluster := slurm.Start(t)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if text, err := cluster.Run("salloc", "-Q", "-n", "2", "--no-shell"); err != nil {
		t.Fatalf("allocate: %v: %s", err, text)
	}
	job, err := cluster.Run("squeue", "-h", "-o", "%i")
	if err != nil {
		t.Fatalf("find the allocation: %v: %s", err, job)
	}
	t.Cleanup(func() {
		testkit.Eventually(t, "SLURM to be done with the steps", func() bool {
			steps, err := cluster.Run("squeue", "-h", "-s", "-j", job)
			return err == nil && steps == ""
		})
	})
	return launcher{command: func() []string {
		return []string{"srun", "-Q", "-n", "2", "--overlap", "--jobid", job, "--chdir", here,
			"sh", "-c", `exec sh testdata/ranks.sh "$1" "$2" $SLURM_PROCID`, "rank"}
	}, environ: cluster.Environ}
}

// leftBehind gives the ranks and helpers that wrote their ids and live.
func leftBehind(t *testing.T, dir string) (living []int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "pid-*"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d processes wrote their ids, %v; want at least 4", len(files), err)
	}
	for _, file := range files {
		if pid := pidIn(t, file); alive(pid) {
			living = append(living, pid)
		}
	}
	return living
}

// Whatever ends a command that others launched, nothing of it is left behind:
// neither ranks nor the helpers that left their groups.
func TestLaunchersLeaveNothingBehind(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T) launcher{"torchrun": torchrun, "mpirun": mpirun, "srun": srun} {
		t.Run(name, func(t *testing.T) {
			l := prepare(t)
			stop := func(s *started, _ string) { s.signals <- syscall.SIGTERM }
			for _, c := range []struct {
				name, what string
				attempts   int
				do         func(s *started, dir string)
			}{
				{"a rank fails, then it ends well", "fails once", 2, nil},
				{"told to stop", "waits", 1, stop},
				{"told to stop and deaf", "deaf", 1, stop},
				{"the launcher is killed", "waits", 1, func(_ *started, dir string) { killLauncher(t, dir) }},
			} {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel() // ranks mostly wait for each other
					l.ends(t, c.what, c.attempts, c.do)
				})
			}
		})
	}
}

// killLauncher kills the child of this process that is the launcher.
func killLauncher(t *testing.T, dir string) {
	t.Helper()
	processes, _ := filepath.Glob("/proc/[0-9]*")
	killed := 0
	for _, process := range processes {
		words, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		parent, _ := statOf(process)
		if parent == os.Getpid() && strings.HasSuffix(string(words), strings.Join([]string{"waits", dir, ""}, "\x00")) {
			_ = syscall.Kill(pidOf(t, process), syscall.SIGKILL)
			killed++
		}
	}
	if killed != 1 {
		t.Errorf("%d launchers were found", killed)
	}
}

// ends supervises the command until it has ended, and looks for what is left.
// Once both ranks are ready something is done to it, unless that is nil.
func (l launcher) ends(t *testing.T, what string, attempts int, do func(s *started, dir string)) {
	agent := trainertest.New(t)
	agent.Start(t)
	dir := t.TempDir()
	s := supervise(t, func(c *Config) {
		c.Socket, c.Environment = agent.Socket, l.environ
		c.Grace, c.KillWait = 4*time.Second, time.Second
		if do != nil {
			c.Policy.MaxRestarts = 0
		}
	}, slices.Concat(l.command(), []string{what, dir})...)
	if do != nil {
		ready(t, s, dir)
		do(s, dir)
	}
	out := s.wait()
	if living := leftBehind(t, dir); len(living) > 0 {
		t.Errorf("processes %v are left behind", living)
		for _, pid := range living {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if s.result.Attempts != attempts || (s.result.Outcome == commonv1.Outcome_OUTCOME_SUCCEEDED) != (do == nil) {
		t.Errorf("result is %+v, output %q", s.result, out)
	}
}

// ready waits for both ranks.
func ready(t *testing.T, s *started, dir string) {
	t.Helper()
	for n := 0; n < 2; {
		files, _ := filepath.Glob(filepath.Join(dir, "ready-*"))
		n = len(files)
		select {
		case <-s.done:
			t.Fatalf("it ended before its ranks were ready: %+v, %v", s.result, s.err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func pidOf(t *testing.T, dir string) int {
	t.Helper()
	pid, err := strconv.Atoi(filepath.Base(dir))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}
