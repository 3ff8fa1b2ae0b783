// Package protocol holds what the agent and the control plane must agree on
// beyond the messages themselves.
package protocol

import (
	"regexp"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Revision is the revision of the agent protocol that this build speaks. It
// grows when a peer of the revision before would misunderstand; the control
// plane refuses any other.
const Revision = 1

// ConnectTimeout is how long a connection of an agent to its control plane may take
// to be made: where all agents come at once some wait for others.
const ConnectTimeout = 40 * time.Second

// RestartExitCode is what a training process exits with when it was told to
// save and be restarted: EX_TEMPFAIL of sysexits.h.
const RestartExitCode = 75

// Environment of a training process that runs under a supervisor.
const (
	EnvSocket   = "VIGIL_SOCKET"    // path of the agent's unix socket
	EnvRunID    = "VIGIL_RUN_ID"    // the run
	EnvAttempt  = "VIGIL_ATTEMPT"   // the launch, counted from 0
	EnvExitFile = "VIGIL_EXIT_FILE" // where the process says why it exits, as JSON of ExitReport
	// EnvRecovery is what the attempt is asked to do otherwise than the one before,
	// as JSON of Recovery; not set for the first attempt.
	EnvRecovery = "VIGIL_RECOVERY"
	// EnvConfig is the path of the run's configuration as JSON: every key that its
	// user set.
	EnvConfig = "VIGIL_CONFIG"
	// EnvMaxCheckpoint is how large a checkpoint of one process may be, in bytes.
	EnvMaxCheckpoint = "VIGIL_MAX_CHECKPOINT_BYTES"
	// EnvMode is which checkpoint the run goes on from: "exact", "latest", "best".
	EnvMode = "VIGIL_RECOVERY_MODE"
	// EnvFallback is "false" where a run must not go on from an earlier checkpoint
	// when the newest is not fit.
	EnvFallback = "VIGIL_RESUME_FALLBACK"
)

// Recovery is what an attempt is asked to do otherwise.
type Recovery struct {
	// From is "latest", "earlier" or "nothing": where it goes on.
	From string `json:"from"`
	// Except is checkpoints that are not to be gone on from while there is another.
	Except []string `json:"except,omitempty"`
	// SkipBatches is how many batches are left out when SkipAtStep is reached.
	SkipBatches int64 `json:"skip_batches,omitempty"`
	SkipAtStep  int64 `json:"skip_at_step,omitempty"`
	// LearningRateScale multiplies the learning rate; 0 and 1: it stays.
	LearningRateScale float64 `json:"learning_rate_scale,omitempty"`
}

// ExitReport is what a training process leaves for its supervisor.
type ExitReport struct {
	Failure      string `json:"failure"`       // name of a vigil.common.v1.FailureKind
	Explanation  string `json:"explanation"`   // one sentence
	CheckpointID string `json:"checkpoint_id"` // the checkpoint to go on from; may be empty
	Stop         bool   `json:"stop"`          // true: do not restart
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

// CheckNode refuses a node's name that the control plane would not take.
func CheckNode(name string) error {
	if nodeName.MatchString(name) {
		return nil
	}
	return fault.New(fault.Invalid, "node name %q: want 1 to 253 letters, digits, '.', '_' and '-', a letter or digit first and last", name)
}
