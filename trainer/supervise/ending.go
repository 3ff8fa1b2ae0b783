package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// How shells make exit codes.
const (
	exitCannotRun = 126 // the command may not be run
	exitNotFound  = 127 // there is no such command
	signalExit    = 128 // added to a signal's number
)

// ending is how an attempt ended and what that means.
type ending struct {
	code        int            // exit code; -1 when a signal ended it
	signal      syscall.Signal // 0 when it exited by itself
	failure     commonv1.FailureKind
	explanation string // one sentence
	stop        bool   // it asks not to be restarted
	said        bool   // the explanation is the process' own
	reported    bool   // the process has said itself that the run is over
	step        int64  // the last step it finished
	stepKnown   bool
	lasted      time.Duration
}

// ok tells whether it did what it was to do.
func (e *ending) ok() bool { return e.code == 0 }

// exitCode is the ending as an exit code of the supervisor.
func (e *ending) exitCode() int {
	if e.signal != 0 {
		return signalExit + int(e.signal)
	}
	return e.code
}

// unlaunched is the ending of an attempt that could not be launched any more,
// with the exit code that shells give for it.
func unlaunched(err error) ending {
	e := ending{code: exitCannotRun, failure: commonv1.FailureKind_FAILURE_KIND_CRASH, explanation: err.Error()}
	if fault.Is(err, fault.NotFound) {
		e.code = exitNotFound
	}
	return e
}

// event is the ending for the agent.
func (e *ending) event(restarting bool, wait time.Duration) *commonv1.AttemptEnded {
	ended := &commonv1.AttemptEnded{
		Failure: e.failure, Explanation: e.explanation, Restarting: restarting, BackoffSeconds: wait.Seconds(),
	}
	if e.signal != 0 {
		ended.Signal = proto.Int32(int32(e.signal))
	} else {
		ended.ExitCode = proto.Int32(int32(e.code))
	}
	return ended
}

// classify says what the end of a process means. Report is what the process
// left behind, nil when it left nothing; stopped is the signal that the
// supervisor was told to stop by, 0 when it was not.
func classify(state *os.ProcessState, report *protocol.ExitReport, stopped syscall.Signal) ending {
	e := ending{code: state.ExitCode()}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.signal = status.Signal()
	}
	switch {
	case e.ok():
		e.explanation = "the command ended well"
		e.reported = report != nil && report.Stop
		e.stop = true
	case report != nil:
		e.failure = commonv1.FailureKind(commonv1.FailureKind_value[report.Failure])
		e.explanation, e.stop, e.said = report.Explanation, report.Stop, true
	case stopped != 0:
		e.failure = commonv1.FailureKind_FAILURE_KIND_PREEMPTED
		e.explanation = fmt.Sprintf("stopped by %s without a word from the command", signalName(stopped))
	case e.signal == syscall.SIGKILL:
		e.failure = commonv1.FailureKind_FAILURE_KIND_KILLED
		e.explanation = "killed by SIGKILL and nobody said why; the kernel does that when memory runs out"
	case e.signal != 0:
		e.failure = commonv1.FailureKind_FAILURE_KIND_KILLED
		e.explanation = "killed by " + signalName(e.signal)
	case e.code == protocol.RestartExitCode:
		e.explanation = fmt.Sprintf("asked to be restarted (exit code %d) without a reason", e.code)
	default:
		e.failure = commonv1.FailureKind_FAILURE_KIND_CRASH
		e.explanation = fmt.Sprintf("exit code %d", e.code)
	}
	e.stop = e.stop || stopped != 0
	return e
}

// readReport reads what a process left; nil when it left nothing that can be
// read.
func readReport(path string) (*protocol.ExitReport, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read exit report: %w", err)
	}
	var report protocol.ExitReport
	if err := json.Unmarshal(data, &report); err != nil {
		return nil, fmt.Errorf("read exit report %s: %w", path, err)
	}
	return &report, nil
}

// signalName gives a signal as people write it.
func signalName(s syscall.Signal) string {
	switch s {
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGUSR1:
		return "SIGUSR1"
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGHUP:
		return "SIGHUP"
	case syscall.SIGKILL:
		return "SIGKILL"
	case syscall.SIGSEGV:
		return "SIGSEGV"
	case syscall.SIGABRT:
		return "SIGABRT"
	case syscall.SIGBUS:
		return "SIGBUS"
	}
	return fmt.Sprintf("signal %d (%s)", int(s), s)
}

// waitState gives the state of a process that ended, and an error when it
// could not be waited for.
func waitState(cmd *exec.Cmd, err error) (*os.ProcessState, error) {
	if cmd.ProcessState != nil {
		return cmd.ProcessState, nil
	}
	return nil, fmt.Errorf("wait for %s: %w", cmd.Path, err)
}
