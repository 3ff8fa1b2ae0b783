package supervise

import (
	"log/slog"
	"os"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/supervise/output"
	"github.com/vigil-ml/vigil/trainer/supervise/policy"
	"github.com/vigil-ml/vigil/trainer/supervise/preempt"
)

// Config is what is run and how patiently. Begin with Defaults.
type Config struct {
	Command []string // program and arguments
	RunID   string
	Socket  string // of the agent; empty: there is none
	Attempt uint32 // number of the first launch

	Policy policy.Config
	Output output.Config
	Health Health
	Limits Limits
	// Grace is how long everything may take when the supervisor is told to stop:
	// saving, ending, and being killed at the end of it.
	Grace time.Duration
	// KillWait is the last part of the grace, from SIGTERM to SIGKILL; at most a
	// quarter of it is used.
	KillWait time.Duration
	// PassSIGTERM and PassSIGUSR1 hand these signals to the command and do
	// nothing about them.
	PassSIGTERM, PassSIGUSR1 bool
	// RequeueExitCode is what to exit with when the run was preempted, or is to go
	// on on another node; 0: 128 and the signal's number.
	RequeueExitCode int
	// NoResume begins every attempt anew.
	NoResume bool
	// NeedEncryption refuses to run unless the agent's vault encrypts.
	NeedEncryption bool
	// DrainNode has SLURM give this node to nobody any more where the run is given
	// up here and its policy asks for another node.
	DrainNode bool
	// ControlGroup gives the processes of each attempt a control group of their
	// own, where one can be made.
	ControlGroup bool
	// Settings is what the user set, as JSON; the command finds it in a file. Nil:
	// nothing was.
	Settings []byte
	// Environment is more of the command's environment, as NAME=value.
	Environment []string
}

// Health is what is looked at while the command runs.
type Health struct {
	Interval time.Duration // from one look to the next
	// HangAfter is how long no step may finish; 0: it follows from the steps, see
	// hangPatience.
	HangAfter time.Duration
	// SilentAfter is how long a command that tells no steps at all may print
	// nothing, use no processor, move no data and leave the GPUs idle; 0: for ever.
	// It needs CPU.
	SilentAfter time.Duration
	// FirstStep is how long the first step of an attempt may take.
	FirstStep time.Duration
	// CPU and Memory have the processes' use of them measured, as evidence and to
	// tell of memory that only grows. GPUMemory has the limit on it watched.
	CPU, Memory, GPUMemory bool
}

// Limits end a run that goes beyond them. Zero is none.
type Limits struct {
	Training        time.Duration // from the supervisor's start; what was saved stays
	Allocation      time.Duration // the machine is the run's for this long: a preemption at its end
	GPUMemoryBytes  int64         // of one process, as it reports it
	CheckpointBytes int64         // of one process
	MemoryBytes     int64         // of the host, all processes together; needs ControlGroup
}

// Defaults is how a command is run when nobody says otherwise.
func Defaults() Config {
	return Config{
		Policy: policy.Defaults(), Output: output.Defaults(),
		Grace: 30 * time.Second, KillWait: 5 * time.Second, ControlGroup: true,
		Health: Health{Interval: 5 * time.Second, FirstStep: time.Hour, SilentAfter: 30 * time.Minute, CPU: true, Memory: true, GPUMemory: true},
	}
}

func (c Config) check() error {
	switch {
	case len(c.Command) == 0:
		return fault.New(fault.Invalid, "supervise: there is no command")
	case c.RunID == "":
		return fault.New(fault.Invalid, "supervise: the run has no id")
	case c.Grace < 0 || c.KillWait < 0 || c.Health.HangAfter < 0 || c.Health.SilentAfter < 0 || c.Health.FirstStep < 0:
		return fault.New(fault.Invalid, "supervise: periods must not be negative")
	case c.Health.Interval <= 0:
		return fault.New(fault.Invalid, "supervise: health is looked at every %s; want a positive duration", c.Health.Interval)
	case c.Limits.Training < 0 || c.Limits.Allocation < 0 || c.Limits.GPUMemoryBytes < 0 || c.Limits.CheckpointBytes < 0 || c.Limits.MemoryBytes < 0:
		return fault.New(fault.Invalid, "supervise: limits must not be negative")
	case c.Limits.MemoryBytes > 0 && !c.ControlGroup:
		return fault.New(fault.Invalid, "supervise: a limit on memory needs a control group for the command")
	case c.RequeueExitCode < 0 || c.RequeueExitCode > 255:
		return fault.New(fault.Invalid, "supervise: exit code %d for requeuing; want 0 to 255", c.RequeueExitCode)
	case c.Limits.Allocation > 0 && c.Limits.Allocation <= c.Grace:
		return fault.New(fault.Invalid, "supervise: the allocation lasts %s and the grace period %s: there would be no training", c.Limits.Allocation, c.Grace)
	}
	return c.Policy.Error()
}

// killWait is the time from SIGTERM to SIGKILL within a grace.
func (c Config) killWait(grace time.Duration) time.Duration { return min(c.KillWait, grace/4) }

// Deps is what code injects.
type Deps struct {
	Log     *slog.Logger
	Tracer  trace.Tracer     // may be nil
	Signals <-chan os.Signal // what the supervisor is told; may be nil
	Notices []preempt.Source // who knows that the machine will be taken away
	Environ []string         // of the command, before the run's own variables
	Stdin   *os.File         // may be nil: the command reads nothing
	Stdout  *os.File
	Stderr  *os.File
	Random  func() float64 // 0 to 1, for jitter
	// OwnProcess tells that the process is this supervisor's alone: orphans of the
	// command become its children and are ended with it.
	OwnProcess bool
	// Opened, unless nil, is given the session when it is there; Closing is called
	// before it is closed, while what it is given is still sent.
	Opened  func(*trainer.Session)
	Closing func()
	// OnState, unless nil, is told of every change of state.
	OnState func(from, to State)
}
