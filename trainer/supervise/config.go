package supervise

import (
	"log/slog"
	"math"
	"os"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Config is what is run and how patiently. Begin with Defaults.
type Config struct {
	Command []string // program and arguments
	RunID   string
	Socket  string // of the agent; empty: there is none
	Attempt uint32 // number of the first launch

	MaxRestarts int           // restarts in a row without progress; 0: none
	Grace       time.Duration // from the request to stop to SIGTERM
	KillWait    time.Duration // from SIGTERM to SIGKILL
	Backoff     Backoff
	// SameFailures is how many times in a row the same explanation at the same
	// step ends the run: another restart would not get over it either.
	SameFailures int
	// Steady is how long an attempt of a command that reports no steps must
	// have lasted to count as progress.
	Steady time.Duration
}

// Defaults is how a command is run when nobody says otherwise.
func Defaults() Config {
	return Config{
		MaxRestarts: 10, Grace: 30 * time.Second, KillWait: 5 * time.Second, SameFailures: 3, Steady: time.Minute,
		Backoff: Backoff{Base: 250 * time.Millisecond, Factor: 2, Cap: time.Minute},
	}
}

func (c Config) check() error {
	switch {
	case len(c.Command) == 0:
		return fault.New(fault.Invalid, "supervise: there is no command")
	case c.RunID == "":
		return fault.New(fault.Invalid, "supervise: the run has no id")
	case c.MaxRestarts < 0 || c.SameFailures < 1:
		return fault.New(fault.Invalid, "supervise: %d restarts, %d same failures; want at least 0 and 1", c.MaxRestarts, c.SameFailures)
	case c.Grace < 0 || c.KillWait < 0 || c.Backoff.Base < 0 || c.Backoff.Factor < 1:
		return fault.New(fault.Invalid, "supervise: periods must not be negative, and the backoff must not shrink")
	}
	return nil
}

// Deps is what code injects.
type Deps struct {
	Log     *slog.Logger
	Tracer  trace.Tracer     // may be nil
	Signals <-chan os.Signal // what the supervisor is told; may be nil
	Environ []string         // of the command, before the run's own variables
	Stdin   *os.File         // may be nil: the command reads nothing
	Stdout  *os.File
	Stderr  *os.File
	Random  func() float64 // 0 to 1, for jitter
}

// Backoff is how long a restart waits: longer with every failure in a row.
type Backoff struct {
	Base   time.Duration
	Factor float64
	Cap    time.Duration
}

// Wait gives the time before the restart that follows a number of failures
// without progress, counted from 0. Random, 0 to 1, takes up to half of it
// away, so that many runs that fell together do not rise together.
func (b Backoff) Wait(failures int, random float64) time.Duration {
	wait := min(float64(b.Base)*math.Pow(b.Factor, float64(failures)), float64(b.Cap))
	return time.Duration(wait * (1 - random/2))
}
