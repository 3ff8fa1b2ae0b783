// Package retain lets go of records that are older than they are to be kept. It
// works in small steps, since the store is written to by others meanwhile, and
// what is still needed stays however old it is (package store says what).
package retain

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
)

const (
	// lookEvery is between two looks for what is old.
	lookEvery = 10 * time.Minute
	// stepRecords is how many records of a kind one transaction lets go of, and
	// stepWait what others have the store for between two.
	stepRecords = 100
	stepWait    = 50 * time.Millisecond
	// shortest is the least that can be set.
	shortest = time.Hour
)

// Config is how long records are kept; 0 keeps them for good. Events and samples
// have settings of their own: bus.max_age and bus.max_bytes, metrics.retention
// and metrics.max_bytes.
type Config struct {
	// Incidents is how long after they were resolved incidents are kept, with
	// their findings, timelines and notifications. Default 400 days: a year can
	// be compared with the one before.
	Incidents time.Duration `yaml:"incidents"`
	// Findings is how long findings are kept that belong to no incident, such as
	// those of rules in shadow mode. Default 90 days: they are for judging rules.
	Findings time.Duration `yaml:"findings"`
	// Runs is how long after their end runs are kept, with their attempts and
	// what is known of their checkpoints, and at least as long as their incidents
	// and findings. Default 0: what was trained and how is what experiments are
	// compared by, and takes few bytes. The files of checkpoints are the agents'.
	Runs time.Duration `yaml:"runs"`
}

// Defaults is as the fields say.
func Defaults() Config {
	const day = 24 * time.Hour
	return Config{Incidents: 400 * day, Findings: 90 * day}
}

// Check reports times that are too short.
func (c Config) Check(report func(key, format string, args ...any)) {
	for _, kept := range c.kept() {
		if kept.For != 0 && kept.For < shortest {
			report(kept.Records, "is %s; want 0 (for good) or at least %s", kept.For, shortest)
		}
	}
}

// Kept is how long one kind of record is kept.
type Kept struct {
	Records string
	For     time.Duration // 0 is for good
}

func (c Config) kept() []Kept {
	return []Kept{{"incidents", c.Incidents}, {"findings", c.Findings}, {"runs", c.Runs}}
}

// Deps is what it works with.
type Deps struct {
	Store *store.Store
	// Others are kept by others; they are only shown.
	Others  []Kept
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Clock   func() time.Time
}

// Retention lets go of old records. Make one with [New].
type Retention struct {
	config  Config
	deps    Deps
	expired *prometheus.CounterVec
}

// Kept is how long everything is kept, what others keep too.
func (r *Retention) Kept() []Kept { return append(r.config.kept(), r.deps.Others...) }

// New makes one, and shows in the metrics how long everything is kept.
func New(config Config, deps Deps) *Retention {
	shown := metric.NewGauge(deps.Metrics, metric.ControlRetention)
	r := &Retention{config: config, deps: deps, expired: metric.NewCounter(deps.Metrics, metric.ControlExpired)}
	for _, kept := range r.Kept() {
		shown.WithLabelValues(kept.Records).Set(kept.For.Seconds())
	}
	for _, kept := range config.kept() {
		r.expired.WithLabelValues(kept.Records)
	}
	return r
}

// Run looks now and then until ctx ends. Trouble with the store is logged; the
// next look tries again.
func (r *Retention) Run(ctx context.Context) error {
	for {
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			r.deps.Log.Warn("old records stay for now", "error", err)
		}
		if !life.InStep(ctx, lookEvery) {
			return nil
		}
	}
}

// look lets go of all that is old now.
func (r *Retention) look(ctx context.Context) error {
	now, all := r.deps.Clock(), store.Expired{}
	before := func(kept time.Duration) time.Time {
		if kept == 0 {
			return time.Time{}
		}
		return now.Add(-kept)
	}
	cutoffs := store.Cutoffs{Incidents: before(r.config.Incidents), Findings: before(r.config.Findings), Runs: before(r.config.Runs)}
	for {
		var gone store.Expired
		err := r.deps.Store.Update(ctx, func(tx *store.Tx) (err error) {
			gone, err = tx.Expire(cutoffs, stepRecords)
			return err
		})
		if err != nil {
			return err
		}
		if !gone.Any() {
			break
		}
		for records, n := range map[string]int64{"incidents": gone.Incidents, "findings": gone.Findings, "runs": gone.Runs} {
			r.expired.WithLabelValues(records).Add(float64(n))
		}
		all.Incidents, all.Findings, all.Runs = all.Incidents+gone.Incidents, all.Findings+gone.Findings, all.Runs+gone.Runs
		if !life.Sleep(ctx, stepWait) {
			break
		}
	}
	if all.Any() {
		r.deps.Log.Info("old records were let go of", "incidents", all.Incidents, "findings", all.Findings, "runs", all.Runs)
	}
	return nil
}
