package supervise

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// failing is a command that fails in one way, and what it is told by. Where this
// machine cannot fail so, as it has no GPU and no second node, the command prints what
// programs print that do.
type failing struct {
	command  string
	evidence string
	change   func(*Config)
	do       func(*started)
	faults   []*commonv1.NodeFault // that the agent knows
}

func python(code string) string { return `exec python3 -c '` + code + `'` }

// failings has every kind of failure.
func failings() map[string]failing {
	const waits = `echo ready; while :; do sleep 0.01; done`
	return map[string]failing{
		"NONFINITE":  {command: `echo "AssertionError: Rank 3: found NaN in local forward loss calculation."; exit 1`, evidence: "found NaN"},
		"DIVERGENCE": {command: `echo "ValueError: training has diverged: loss 41.2 after 2.1"; exit 1`, evidence: "diverged"},
		"HANG": {command: `echo 3 > $VIGIL_EXIT_FILE.step; ` + waits, evidence: "no step has finished",
			change: func(c *Config) {
				c.Health.Interval, c.Health.HangAfter, c.KillWait = 10*time.Millisecond, 200*time.Millisecond, 50*time.Millisecond
			}},
		"HOST_OOM": {command: python(`raise MemoryError`), evidence: "MemoryError"}, // a real one: TestMemoryThatRunsOutIsKnown
		"GPU_OOM":  {command: `echo "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."; exit 1`, evidence: "CUDA out of memory"},
		"GPU_FAULT": {command: `exit 1`, evidence: "kernel log", faults: []*commonv1.NodeFault{{
			Kind: commonv1.FaultKind_FAULT_KIND_XID, Code: 79, Severity: commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL,
			Title: "GPU has fallen off the bus", Gpu: proto.Uint32(3), Message: "NVRM: Xid (PCI:0000:3b:00): 79",
		}}},
		"NETWORK":            {command: python(`import socket; socket.create_connection(("127.0.0.1", 1))`), evidence: "Connection refused"},
		"PREEMPTED":          {command: waits, evidence: "SIGTERM", do: func(s *started) { s.read("ready"); s.signals <- syscall.SIGTERM }},
		"NODE_LOST":          {command: `echo "srun: error: Node failure on gpu-07"; exit 1`, evidence: "Node failure"},
		"DISK_FULL":          {command: python(`open("/dev/full", "w").write("x" * 100000)`), evidence: "No space left on device"},
		"CHECKPOINT_CORRUPT": {command: python(`import pickle; pickle.loads(b"v")`), evidence: "invalid load key"},
		"DATA":               {command: python(`import json; json.loads("")`), evidence: "JSONDecodeError"},
		"LIMIT":              {command: waits, evidence: "are over", change: func(c *Config) { c.Limits.Training = 50 * time.Millisecond }},
		"USER_ERROR": {command: python(`raise ValueError("wrong")`), evidence: "ValueError: wrong",
			change: func(c *Config) { c.Policy.MaxRestarts = 3 }},
		"KILLED": {command: `kill -9 $$`, evidence: "SIGKILL"},
		"CRASH":  {command: `exit 3`, evidence: "exit code 3"},
	}
}

func TestEveryKindOfFailureIsTold(t *testing.T) {
	testkit.Require(t, "python3")
	all := failings()
	for number, name := range commonv1.FailureKind_name {
		name = strings.TrimPrefix(name, "FAILURE_KIND_")
		c, ok := all[name]
		if ok == (number == 0) {
			t.Errorf("%s has a command that fails so: %v", name, ok)
		}
		if number == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent := trainertest.New(t)
			agent.OnStanding = func(*trainerv1.GetStandingRequest) *trainerv1.GetStandingResponse {
				return &trainerv1.GetStandingResponse{Faults: c.faults}
			}
			agent.Start(t)
			s := supervise(t, func(config *Config) {
				config.Socket, config.Policy.MaxRestarts, config.Grace, config.KillWait = agent.Socket, 0, time.Second, time.Second
				if c.change != nil {
					c.change(config)
				}
			}, "sh", "-c", c.command)
			if c.do != nil {
				c.do(s)
			}
			s.wait()
			var last *commonv1.AttemptEnded
			for _, event := range agent.Events() {
				if end := event.GetAttemptEnded(); end != nil {
					last = end
				}
			}
			if last.GetFailure() != commonv1.FailureKind(number) || !strings.Contains(strings.Join(last.GetEvidence(), "\n"), c.evidence) {
				t.Errorf("told as %v by %q, want %s by %q", last.GetFailure(), last.GetEvidence(), name, c.evidence)
			}
		})
	}
}
