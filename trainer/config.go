package trainer

import (
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const (
	defaultQueueSteps     = 4096
	defaultFlushInterval  = 100 * time.Millisecond
	defaultCallTimeout    = 2 * time.Second
	defaultConnectTimeout = time.Second
	defaultHold           = 5 * time.Second
)

// Config says who the process is and where its agent listens. The zero value
// of a setting means its default.
type Config struct {
	Socket     string                // path of the agent's unix socket; empty: there is no agent
	RunID      string                // the run; needed when there is a socket
	Attempt    uint32                // the run's launch, counted from 0
	Rank       uint32                // this process, counted from 0
	WorldSize  uint32                // number of ranks; 0 is taken as 1
	Kind       trainerv1.SessionKind // a trainer when not said
	Framework  string                // for instance "vigil-multitask/1"
	Name       string                // what is trained, as the user calls it
	Settings   map[string]string     // settings worth showing
	TotalSteps int64                 // optimizer steps that the run will make; 0 when unknown
	ExitFile   string                // where a supervisor wants to read why the process exits; empty: nobody does
	// Recovery is what this attempt is asked to do otherwise than the one before.
	Recovery protocol.Recovery
	// MaxCheckpointBytes bounds a checkpoint of this process; 0: nothing does.
	MaxCheckpointBytes int64
	// NoFallback refuses to go on from an earlier checkpoint when the newest is
	// not fit.
	NoFallback bool
	// Mode is which checkpoint is gone on from.
	Mode commonv1.RecoveryMode

	QueueSteps     int           // step reports kept while they cannot be sent; default 4096
	FlushInterval  time.Duration // step reports are sent this often; default 100 ms
	CallTimeout    time.Duration // bound of one call to the agent; default 2 s
	ConnectTimeout time.Duration // how long Connect waits for the agent; default 1 s
}

// Deps is what code injects; each may be nil.
type Deps struct {
	Log    *slog.Logger     // default: nothing is logged
	Tracer trace.Tracer     // default: no spans
	Clock  func() time.Time // default: time.Now
}

// FromEnvironment reads VIGIL_SOCKET, VIGIL_RUN_ID, VIGIL_ATTEMPT,
// VIGIL_EXIT_FILE, VIGIL_RECOVERY, VIGIL_MAX_CHECKPOINT_BYTES,
// VIGIL_RESUME_FALLBACK, VIGIL_RECOVERY_MODE, RANK and WORLD_SIZE. A number that is none gives
// fault.Invalid with the variable's name.
func FromEnvironment(getenv func(string) string) (Config, error) {
	config := Config{
		Socket:     getenv(protocol.EnvSocket),
		RunID:      getenv(protocol.EnvRunID),
		ExitFile:   getenv(protocol.EnvExitFile),
		NoFallback: getenv(protocol.EnvFallback) == "false",
	}
	if text := getenv(protocol.EnvMode); text != "" {
		mode, ok := commonv1.RecoveryMode_value["RECOVERY_MODE_"+strings.ToUpper(text)]
		if !ok {
			return Config{}, fault.New(fault.Invalid, "read environment: %s is %q; want exact, latest or best", protocol.EnvMode, text)
		}
		config.Mode = commonv1.RecoveryMode(mode)
	}
	if text := getenv(protocol.EnvRecovery); text != "" {
		if err := json.Unmarshal([]byte(text), &config.Recovery); err != nil {
			return Config{}, fault.New(fault.Invalid, "read environment: %s: %v", protocol.EnvRecovery, err)
		}
	}
	if text := getenv(protocol.EnvMaxCheckpoint); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return Config{}, fault.New(fault.Invalid, "read environment: %s is %q; want a number of bytes", protocol.EnvMaxCheckpoint, text)
		}
		config.MaxCheckpointBytes = n
	}
	for _, number := range []struct {
		name string
		into *uint32
	}{
		{protocol.EnvAttempt, &config.Attempt},
		{"RANK", &config.Rank},
		{"WORLD_SIZE", &config.WorldSize},
	} {
		text := getenv(number.name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return Config{}, fault.New(fault.Invalid, "read environment: %s is %q; want a whole number from 0 on", number.name, text)
		}
		*number.into = uint32(n)
	}
	return config, nil
}

// filled gives the configuration with its defaults, or what is wrong with it.
func (c Config) filled() (Config, error) {
	c.WorldSize = max(c.WorldSize, 1)
	switch {
	case c.Socket != "" && c.RunID == "":
		return Config{}, fault.New(fault.Invalid, "connect to agent: the run has no id; set %s", protocol.EnvRunID)
	case c.Rank >= c.WorldSize:
		return Config{}, fault.New(fault.Invalid, "connect to agent: rank %d of %d ranks; ranks count from 0", c.Rank, c.WorldSize)
	case c.QueueSteps < 0 || c.FlushInterval < 0 || c.CallTimeout < 0 || c.ConnectTimeout < 0:
		return Config{}, fault.New(fault.Invalid, "connect to agent: queue size, intervals and timeouts must not be negative")
	}
	if c.Kind == trainerv1.SessionKind_SESSION_KIND_UNSPECIFIED {
		c.Kind = trainerv1.SessionKind_SESSION_KIND_TRAINER
	}
	defaultTo(&c.QueueSteps, defaultQueueSteps)
	defaultTo(&c.FlushInterval, defaultFlushInterval)
	defaultTo(&c.CallTimeout, defaultCallTimeout)
	defaultTo(&c.ConnectTimeout, defaultConnectTimeout)
	return c, nil
}

// filled gives the dependencies with those that do nothing for nil.
func (d Deps) filled() Deps {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Tracer == nil {
		d.Tracer = noop.NewTracerProvider().Tracer("trainer")
	}
	if d.Clock == nil {
		d.Clock = time.Now
	}
	return d
}

func defaultTo[T comparable](into *T, value T) {
	var zero T
	if *into == zero {
		*into = value
	}
}
