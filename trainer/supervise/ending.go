package supervise

import (
	"cmp"
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
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/supervise/diagnose"
	"github.com/vigil-ml/vigil/trainer/supervise/policy"
)

// Exit codes, as shells make them.
const (
	exitCannotRun = 126 // the command may not be run
	exitNotFound  = 127 // there is no such command
	exitLimit     = 124 // a limit was reached, as timeout(1) has it
	signalExit    = 128 // added to a signal's number
)

// ending is how an attempt ended and what that means.
type ending struct {
	diagnose.Conclusion
	code      int            // exit code; -1 when a signal ended it
	signal    syscall.Signal // 0 when it exited by itself
	stop      bool           // it asks not to be restarted
	said      bool           // the explanation is the process' own
	reported  bool           // the process has said itself that the run is over
	unread    string         // the checkpoint that it could not go on from
	progress  trainer.Progress
	stepKnown bool
	lasted    time.Duration
}

// from gives the checkpoint that the attempt went on from, or could not; "" when
// there was none.
func (e *ending) from() string { return cmp.Or(e.unread, e.progress.Resumed) }

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
	e := ending{code: exitCannotRun}
	if fault.Is(err, fault.NotFound) {
		e.code = exitNotFound
	}
	e.Failure, e.Explanation = commonv1.FailureKind_FAILURE_KIND_CRASH, err.Error()
	e.Evidence = []string{err.Error()}
	return e
}

// forPolicy is the ending as decisions are made by it.
func (e *ending) forPolicy() policy.Ending {
	return policy.Ending{
		Failure: e.Failure, Explanation: e.Explanation, Said: e.said, Fingerprint: e.Fingerprint,
		Step: e.progress.Step, StepKnown: e.stepKnown, Lasted: e.lasted,
	}
}

// event is the ending for the agent.
func (e *ending) event(d policy.Decision) *commonv1.AttemptEnded {
	ended := &commonv1.AttemptEnded{
		Failure: e.Failure, Explanation: e.Explanation, Restarting: d.Restart, BackoffSeconds: d.Wait.Seconds(),
		Evidence: e.Evidence, Recovery: recovery(d, e.progress.Step+1),
	}
	if e.signal != 0 {
		ended.Signal = proto.Int32(int32(e.signal))
	} else {
		ended.ExitCode = proto.Int32(int32(e.code))
	}
	if e.stepKnown {
		ended.Step = proto.Int64(e.progress.Step)
	}
	return ended
}

// recovery is a decision for the agent; nil when nothing was decided.
func recovery(d policy.Decision, step int64) *commonv1.Recovery {
	if d.Why == "" {
		return nil
	}
	r := &commonv1.Recovery{Decision: d.Why, ExcludeNode: d.ExcludeNode, Page: d.Page}
	if !d.Restart {
		return r
	}
	r.SkipBatches, r.LearningRateScale = d.SkipBatches, d.LearningRateScale
	if d.SkipBatches > 0 {
		r.SkipAtStep = step
	}
	switch d.From {
	case policy.Earlier:
		r.ResumeFrom = commonv1.ResumeFrom_RESUME_FROM_EARLIER
	case policy.Nothing:
		r.ResumeFrom = commonv1.ResumeFrom_RESUME_FROM_NOTHING
	default:
		r.ResumeFrom = commonv1.ResumeFrom_RESUME_FROM_LATEST
	}
	return r
}

// classify says what the end of a process means. Report is what the process
// left behind, nil when it left nothing; stopped is what the
// supervisor was told to stop by.
func classify(state *os.ProcessState, report *protocol.ExitReport, stopped stop, e diagnose.Evidence) ending {
	ended := ending{code: state.ExitCode()}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		ended.signal = status.Signal()
	}
	if ended.ok() {
		ended.Conclusion = diagnose.Diagnose(diagnose.Evidence{})
		ended.reported = report != nil && report.Stop
		ended.stop = true
		return ended
	}
	e.ExitCode, e.Signal = ended.code, ended.signal
	if report != nil {
		e.Said = &diagnose.Said{Failure: commonv1.FailureKind(commonv1.FailureKind_value[report.Failure]), Explanation: report.Explanation}
		ended.stop, ended.said = report.Stop, true
		if e.Said.Failure == commonv1.FailureKind_FAILURE_KIND_CHECKPOINT_CORRUPT {
			ended.unread = report.CheckpointID
		}
	} else if stopped.told() && e.Act.Failure == 0 {
		e.Act = diagnose.Act{
			Failure: commonv1.FailureKind_FAILURE_KIND_PREEMPTED,
			Why:     fmt.Sprintf("stopped by %s without a word from the command", stopped.what),
		}
	}
	ended.Conclusion = diagnose.Diagnose(e)
	ended.stop = ended.stop || stopped.told()
	return ended
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

// torchError reads what torchrun's workers leave when they fail; "" when there
// is nothing. It is a traceback as they print it.
func torchError(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var file struct {
		Message json.RawMessage
	}
	if json.Unmarshal(data, &file) != nil {
		return ""
	}
	var long struct {
		ExtraInfo struct {
			Callstack string `json:"py_callstack"`
		}
	}
	if json.Unmarshal(file.Message, &long) == nil && long.ExtraInfo.Callstack != "" {
		return long.ExtraInfo.Callstack
	}
	var text string
	_ = json.Unmarshal(file.Message, &text)
	return text
}

// lookPath finds a program, or says as start does why not.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", startError(exec.Command(name), err)
	}
	return path, nil
}
