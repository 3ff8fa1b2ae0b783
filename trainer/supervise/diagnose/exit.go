package diagnose

import (
	"fmt"
	"syscall"

	"github.com/vigil-ml/vigil/internal/protocol"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// How shells make exit codes.
const (
	signalExit    = 128 // added to a signal's number
	lastSignal    = 64
	exitTimeout   = 124 // of timeout(1)
	exitCannotRun = 126
	exitNotFound  = 127
)

// Exit codes that frameworks give a meaning.
const (
	// Megatron-LM, training/training.py: the rerun state machine could not tell a
	// transient from a persistent fault and wants the same steps made again.
	megatronResume = 16
	// Megatron-LM: the rerun on other hardware gave another result.
	megatronInvalid = 17
	// NVIDIA's resiliency extension: do not requeue.
	nvrxDoNotRequeue = 93
)

// ofExit is what exit code and signal alone say.
func ofExit(e Evidence) []candidate {
	signal := e.Signal
	if signal == 0 && e.ExitCode > signalExit && e.ExitCode <= signalExit+lastSignal {
		signal = syscall.Signal(e.ExitCode - signalExit) // a shell passed it on
	}
	if signal != 0 {
		return []candidate{ofSignal(signal, ofEnd(e))}
	}
	kind, why := ofCode(e)
	return []candidate{{kind, why, ofEnd(e)}}
}

// ofCode is what an exit code says.
func ofCode(e Evidence) (commonv1.FailureKind, string) {
	switch e.ExitCode {
	case 0:
		return 0, "the command ended well"
	case protocol.RestartExitCode:
		return 0, fmt.Sprintf("asked to be restarted (exit code %d) without a reason", e.ExitCode)
	case megatronResume:
		return commonv1.FailureKind_FAILURE_KIND_GPU_FAULT,
			"exit code 16: Megatron's rerun check wants the steps made again to tell a transient fault of a GPU from a persistent one"
	case megatronInvalid:
		return commonv1.FailureKind_FAILURE_KIND_GPU_FAULT,
			"exit code 17: Megatron's rerun check found that this GPU gives wrong results"
	case nvrxDoNotRequeue:
		return commonv1.FailureKind_FAILURE_KIND_USER_ERROR, "exit code 93: the launcher asks not to be started again"
	case exitTimeout:
		return commonv1.FailureKind_FAILURE_KIND_LIMIT, "exit code 124: a time limit of its own (timeout) ended it"
	case exitCannotRun, exitNotFound:
		return commonv1.FailureKind_FAILURE_KIND_USER_ERROR, fmt.Sprintf("exit code %d: a program of it is not there or cannot be run", e.ExitCode)
	}
	if t := e.Traceback; t != nil {
		return commonv1.FailureKind_FAILURE_KIND_CRASH, clip(t.String(), 300)
	}
	return commonv1.FailureKind_FAILURE_KIND_CRASH, fmt.Sprintf("exit code %d", e.ExitCode)
}

// ofSignal is what a signal says that nobody explained.
func ofSignal(signal syscall.Signal, evidence string) candidate {
	killed := commonv1.FailureKind_FAILURE_KIND_KILLED
	switch signal {
	case syscall.SIGKILL:
		return candidate{killed, "killed by SIGKILL and nobody said why; the kernel does that when memory runs out", evidence}
	case syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2:
		return candidate{commonv1.FailureKind_FAILURE_KIND_PREEMPTED, "somebody else ended it with " + SignalName(signal), evidence}
	case syscall.SIGXCPU, syscall.SIGXFSZ:
		return candidate{commonv1.FailureKind_FAILURE_KIND_LIMIT, SignalName(signal) + ": a resource limit of the system was reached", evidence}
	case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGABRT, syscall.SIGILL, syscall.SIGFPE:
		return candidate{commonv1.FailureKind_FAILURE_KIND_CRASH, "it crashed with " + SignalName(signal), evidence}
	}
	return candidate{killed, "killed by " + SignalName(signal), evidence}
}

// SignalName gives a signal as people write it.
func SignalName(s syscall.Signal) string {
	names := map[syscall.Signal]string{
		syscall.SIGHUP: "SIGHUP", syscall.SIGINT: "SIGINT", syscall.SIGQUIT: "SIGQUIT", syscall.SIGILL: "SIGILL",
		syscall.SIGABRT: "SIGABRT", syscall.SIGBUS: "SIGBUS", syscall.SIGFPE: "SIGFPE", syscall.SIGKILL: "SIGKILL",
		syscall.SIGUSR1: "SIGUSR1", syscall.SIGSEGV: "SIGSEGV", syscall.SIGUSR2: "SIGUSR2", syscall.SIGPIPE: "SIGPIPE",
		syscall.SIGTERM: "SIGTERM", syscall.SIGXCPU: "SIGXCPU", syscall.SIGXFSZ: "SIGXFSZ",
	}
	if name, ok := names[s]; ok {
		return name
	}
	return fmt.Sprintf("signal %d (%s)", int(s), s)
}
