// Package vault keeps a run's checkpoints, on a local or a shared directory.
//
// A trainer gets an empty staging directory ([Vault.Begin]), writes its files
// and hands them over ([Vault.Commit]). From then on they are the vault's:
// [Vault.Run] seals them (copies, digests and syncs; the manifest last), reads
// them back, and says so with events. Every step can die at any moment; what
// was committed is sealed after the next start. [Vault.Resolve] names the
// checkpoint to go on from, and only one whose digests agree.
//
// The layout on disk is specified in docs/formats/checkpoint.md.
package vault

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/agent/vault/retain"
	"github.com/vigil-ml/vigil/agent/vault/seal"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Config is what users say about the vault.
type Config struct {
	// Dir holds the checkpoints; it may be shared by nodes.
	Dir string `yaml:"dir"`
	// StagingDir is where trainers write. Empty: memory (/dev/shm) where the
	// bytes fit, as announced or as the rank's last checkpoint had them; else
	// below Dir.
	StagingDir string `yaml:"staging_dir"`
	// ExportDir is where checkpoints are restored and exported to when a person
	// asks for it; empty: below Dir.
	ExportDir string `yaml:"export_dir"`
	// MaxStaged bounds the checkpoints that are begun or wait to be sealed; >= 1.
	MaxStaged int `yaml:"max_staged"`
	// Retries is how often sealing is tried again, with a growing delay; >= 0.
	Retries int `yaml:"retries"`
	// RetryDelay is the first of those delays; each later one is four times as
	// long.
	RetryDelay time.Duration `yaml:"retry_delay"`
	// AbandonedAfter is the age at which a staging directory that was never
	// committed is removed.
	AbandonedAfter time.Duration `yaml:"abandoned_after"`
	// ResolveWait is how long Resolve waits for the run's committed checkpoints
	// to be sealed.
	ResolveWait time.Duration `yaml:"resolve_wait"`
	// AgreeWait is how long the first rank that resumes waits for the others to
	// ask too, where a run has several.
	AgreeWait time.Duration `yaml:"agree_wait"`
	// AgreeAway is how long the control plane may not answer before the ranks of a
	// run agree through Dir instead.
	AgreeAway time.Duration `yaml:"agree_away"`
	// ProbationSteps is how soon after a resume a failure of the state blames the
	// checkpoint, in steps; >= 0.
	ProbationSteps int64 `yaml:"probation_steps"`
	// Workers is how many checkpoints are sealed at a time; >= 1.
	Workers int `yaml:"workers"`
	// Retain says which checkpoints are kept; without it all are.
	Retain retain.Policy `yaml:"retain"`
	// Replica is a second store that gets copies, and that runs go on from on
	// another node.
	Replica Replica `yaml:"replica"`
	// Compress has files compressed that shrink by it. Weights do not: it is off.
	Compress bool `yaml:"compress"`
	// Encryption says where the key is that encrypts the vault's keys: all nodes that
	// share a vault need the same. Without it files are stored in the clear.
	Encryption envelope.Settings `yaml:"encryption"`
}

// Defaults keeps checkpoints below a directory.
func Defaults(dir string) Config {
	return Config{
		Dir: dir, MaxStaged: 256, Retries: 3, RetryDelay: time.Second,
		AbandonedAfter: 6 * time.Hour, ResolveWait: 2 * time.Minute, AgreeWait: 2 * time.Minute, AgreeAway: 2 * time.Second,
		ProbationSteps: 20, Workers: 2, Retain: retain.Policy{MinAge: time.Hour},
	}
}

// Check reports settings that cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Dir == "" {
		report("dir", "is empty; name a directory for the checkpoints")
	}
	if c.MaxStaged < 1 {
		report("max_staged", "is %d; want at least 1", c.MaxStaged)
	}
	c.Encryption.Check(func(key, format string, args ...any) { report("encryption."+key, format, args...) })
	if len(c.Encryption.Previous) > 0 && !c.Encryption.On() {
		report("encryption.previous", "is set without a key that came after it")
	}
	c.Retain.Check(func(key, format string, args ...any) { report("retain."+key, format, args...) })
	if c.Retries < 0 {
		report("retries", "is %d; want at least 0", c.Retries)
	}
	if c.Workers < 1 {
		report("workers", "is %d; want at least 1", c.Workers)
	}
	if c.ProbationSteps < 0 {
		report("probation_steps", "is %d; want at least 0", c.ProbationSteps)
	}
	for key, d := range map[string]time.Duration{
		"retry_delay": c.RetryDelay, "abandoned_after": c.AbandonedAfter, "resolve_wait": c.ResolveWait, "agree_wait": c.AgreeWait, "agree_away": c.AgreeAway,
	} {
		if d <= 0 {
			report(key, "is %s; want a positive duration", d)
		}
	}
}

// Deps is what the vault needs of others.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Tracer  trace.Tracer
	Clock   func() time.Time
	FS      durable.FS
	// Node keeps the staging directories of nodes with a common Dir apart.
	Node string
	// Replica is the second store; nil: there is none.
	Replica blob.Store
	// Events puts a run's events on stable storage.
	Events func(ctx context.Context, runID string, events ...*commonv1.Event) error
	// KeyUsed is told of each use of the key that encrypts keys; nil when nobody
	// wants to know.
	KeyUsed func(context.Context, envelope.Use)
	// Meet has ranks agree with the help of the control plane; nil: only through
	// Dir.
	Meet Meet
	// Observe is told each event afterwards, on the goroutine that caused it;
	// nil when nobody listens.
	Observe func(*commonv1.Event)
}

// Vault is the checkpoint store of one agent. All methods are safe for
// concurrent use; Run is called once.
type Vault struct {
	config  Config
	deps    Deps
	id      string // the vault's own name
	memory  string // staging root in memory; empty when there is none
	disk    string // staging root on disk
	sealed  *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	bytes   *prometheus.CounterVec
	removed *prometheus.CounterVec
	copies  *prometheus.CounterVec

	agreements *prometheus.CounterVec
	waiting    *prometheus.GaugeVec
	spare      *prometheus.GaugeVec
	wake       chan struct{}
	codec      seal.Codec
	// The digests of this vault's keyring and the second store's, a string, when
	// neither lacked a key of the other's.
	sharedKeys atomic.Value

	mu      sync.Mutex
	staged  map[key]*staging // begun or committed and not yet sealed
	queue   []*staging       // committed, in the order of commits
	changed chan struct{}    // closed and replaced whenever queue shrinks
	sizes   map[key]int64    // bytes of each rank's last checkpoint, which the key leaves out
	// What is kept in memory for each rank's next checkpoint, the ranks that take
	// nothing of it, and what of it is to be removed.
	spared  map[key]*spares
	unaware map[key]bool
	dropped []string
	// What runs went on from and has not proved good, and the verdicts on those
	// that proved bad.
	onProbation map[string]*probation
	verdicts    []*commonv1.CheckpointJudgement
	proved      []provedGood      // and has to be written down
	kept        map[string]string // why each checkpoint is kept, as it was told

	judged   chan struct{} // holds a token when there are verdicts
	verified chan struct{} // holds a token when there is something to copy
	dropping chan struct{} // holds a token when there is something to remove
	judging  sync.Mutex    // held while verdicts are written down
	keeping  sync.Mutex    // held while a retention policy is applied
	pointing sync.Mutex    // held while latest is moved
}

// New opens a vault, making its directories. What an earlier agent left
// committed is queued for Run; what it left uncommitted and old is removed.
func New(config Config, deps Deps) (*Vault, error) {
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", config.Dir, err)
	}
	config.Dir = dir
	v := &Vault{
		config: config, deps: deps,
		disk:    filepath.Join(dir, ".staging", pathSafe(deps.Node)),
		sealed:  metric.NewCounter(deps.Metrics, metric.AgentVaultSealed),
		seconds: metric.NewLatency(deps.Metrics, metric.AgentVaultSealTime),
		bytes:   metric.NewCounter(deps.Metrics, metric.AgentVaultSealBytes),
		removed: metric.NewCounter(deps.Metrics, metric.AgentVaultRemoved),
		copies:  metric.NewCounter(deps.Metrics, metric.AgentVaultCopies),
		waiting: metric.NewGauge(deps.Metrics, metric.AgentVaultWaiting),
		spare:   metric.NewGauge(deps.Metrics, metric.AgentVaultSpare),
		wake:    make(chan struct{}, max(config.Workers, 1)),
		staged:  map[key]*staging{},
		changed: make(chan struct{}),
		sizes:   map[key]int64{}, spared: map[key]*spares{}, unaware: map[key]bool{}, dropping: make(chan struct{}, 1),

		agreements:  metric.NewCounter(deps.Metrics, metric.AgentVaultAgreements),
		onProbation: map[string]*probation{}, kept: map[string]string{}, judged: make(chan struct{}, 1), verified: make(chan struct{}, 1),
	}
	if config.StagingDir != "" {
		if v.disk, err = filepath.Abs(config.StagingDir); err != nil {
			return nil, fmt.Errorf("open vault: %w", err)
		}
		v.config.StagingDir = v.disk
	}
	if config.ExportDir == "" {
		v.config.ExportDir = filepath.Join(dir, exportsName)
	}
	for _, d := range []string{dir, v.disk} {
		if err := deps.FS.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open vault: %w", err)
		}
	}
	if v.id, err = identity(dir); err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	if err := v.openKeys(); err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	v.codec.Compress = config.Compress
	if config.StagingDir == "" {
		v.memory = memoryStaging(deps.Log, dir, v.id, deps.Node)
	}
	if err := v.scan(); err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	v.resumeProbations()
	return v, nil
}

// Run seals what is committed, several at a time, applies the retention policy
// and does what follows from probations, until ctx ends. What cannot be sealed
// is told with a FAILED event and never ends Run.
func (v *Vault) Run(ctx context.Context) error {
	defer v.leaveMemory()
	defer v.clearSpares()
	defer v.clearGone()
	tasks := []life.Task{
		{Name: "probations", Run: v.pass},
		{Name: "sweep", Run: v.sweepEvery},
		{Name: "copy", Run: v.replicateAll},
		{Name: "remove", Run: v.removeDropped},
	}
	for range v.config.Workers {
		tasks = append(tasks, life.Task{Name: "seal", Run: v.sealAll})
	}
	return life.All(ctx, tasks...)
}

// sweepEvery removes now and then what nobody needs any more.
func (v *Vault) sweepEvery(ctx context.Context) error {
	for life.Sleep(ctx, sweepInterval) {
		v.sweep()
		v.keepAll(ctx)
	}
	return nil
}
