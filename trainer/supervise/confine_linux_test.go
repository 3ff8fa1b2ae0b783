package supervise

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer/supervise/cgroup"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// groups gives where control groups can be made, or skips the test.
func groups(t *testing.T) *cgroup.Parent {
	t.Helper()
	parent, err := cgroup.Open()
	if err != nil {
		t.Skipf("this machine lets nobody make control groups here: %v", err)
	}
	group, err := parent.Make("vigil-test-probe", 1<<30)
	if err != nil {
		t.Skipf("this machine lets nobody make control groups with memory here: %v", err)
	}
	if err := group.Remove(); err != nil {
		t.Fatal(err)
	}
	return parent
}

// A command that needs more memory than it may use is killed by the kernel; that
// it is this, and not a SIGKILL of somebody's, is known from the control group.
func TestMemoryThatRunsOutIsKnown(t *testing.T) {
	testkit.Require(t, "python3")
	groups(t)
	for name, command := range map[string]string{
		"of the command itself": `exec python3 -c 'b = bytearray(256 << 20)'`,
		"of a worker of it":     `python3 -c 'b = bytearray(256 << 20)' || { echo "DataLoader worker is killed by signal: Killed."; exit 1; }`,
	} {
		t.Run(name, func(t *testing.T) {
			agent := trainertest.New(t)
			agent.Start(t)
			s := supervise(t, func(c *Config) {
				c.Socket, c.Limits.MemoryBytes, c.Policy.MaxRestarts = agent.Socket, 64<<20, 0
			}, "sh", "-c", command)
			s.wait()
			end, _ := find(agent, (*commonv1.Event).GetAttemptEnded)
			evidence := strings.Join(end.GetEvidence(), "\n")
			if end.GetFailure() != commonv1.FailureKind_FAILURE_KIND_HOST_OOM || !strings.Contains(evidence, "oom_kill grew by 1") || !strings.Contains(evidence, "--max-memory-bytes allows 67108864") {
				t.Errorf("failure %v, told by %s", end.GetFailure(), evidence)
			}
		})
	}
}

// A process that has left its group, its session, its parent and its environment
// is not left behind either; without a control group it would be.
func TestWhoLeavesEverythingIsEndedToo(t *testing.T) {
	testkit.Require(t, "setsid")
	groups(t)
	for _, own := range []bool{true, false} {
		file := filepath.Join(t.TempDir(), "pid")
		s := supervise(t, func(c *Config) { c.Policy.MaxRestarts, c.ControlGroup = 0, own }, "sh", "-c",
			`env -i setsid sh -c 'sh -c "echo \$\$ > `+file+`.new; mv `+file+`.new `+file+`; exec sleep 1000" &' >/dev/null 2>&1
			while [ ! -e `+file+` ]; do sleep 0.01; done; exit 5`)
		s.wait()
		pid := pidIn(t, file)
		if alive(pid) == own {
			t.Errorf("with a control group: %v; process %d, which left everything, outlives the attempt: %v", own, pid, !own)
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestALimitOnMemoryThatCannotBeKeptIsRefused(t *testing.T) {
	s := supervise(t, func(c *Config) { c.ControlGroup, c.Limits.MemoryBytes = false, 1<<30 }, "true")
	<-s.done
	if s.err == nil || !strings.Contains(s.err.Error(), "needs a control group") {
		t.Errorf("Run = %+v, %v", s.result, s.err)
	}
}

// What a supervisor that was killed left in control groups the next one on the
// machine ends.
func TestGroupsOfAKilledSupervisorAreCleared(t *testing.T) {
	parent, temp := groups(t), t.TempDir()
	dead, err := makeDirectory(temp)
	if err != nil {
		t.Fatal(err)
	}
	group, err := parent.Make("vigil-test-dead", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := appendLines(filepath.Join(dead.path, groupsName), group.Paths()); err != nil {
		t.Fatal(err)
	}
	_ = dead.lock.Close() // as the kernel does
	next, err := makeDirectory(temp)
	if err != nil {
		t.Fatal(err)
	}
	defer next.remove()
	for _, path := range group.Paths() {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left behind", path)
		}
	}
}
