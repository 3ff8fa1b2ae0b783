// Package metrics keeps the samples of all nodes and runs in an embedded
// Prometheus TSDB, and answers PromQL over them on Prometheus' own HTTP API.
//
// Only series of the dictionary in internal/metric are stored, under its
// labels and the node's name. Samples are idempotent: one that comes again is
// counted as repeated and takes no space.
//
// A sample is in the TSDB's log when [DB.Append] returns, which survives a
// crash of the control plane. The log is not synced sample by sample: a crash
// of the machine or a power failure can lose the last half minute of them.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/vigil-ml/vigil/internal/metric"
)

// What keeps the TSDB small on a laptop; the defaults are made for millions of
// series.
const (
	walSegmentBytes = 16 << 20
	stripes         = 1 << 12
	lookback        = 5 * time.Minute
	longestBlock    = 31 * 24 * time.Hour
	shortestKeep    = 2 * time.Hour
	// choresEvery is how often full chunks leave memory for the disk. Agents that
	// send what they kept of an outage fill many in seconds.
	choresEvery = 5 * time.Second
	// maxExemplars are kept of all series together, the newest, in memory and in
	// the log: some two MiB.
	maxExemplars = 10_000
)

// Config is what users say about samples.
type Config struct {
	// Dir holds the TSDB's files. One process at a time may have it open.
	Dir string `yaml:"dir"`
	// Retention is how long samples are kept; >= 2h.
	Retention time.Duration `yaml:"retention"`
	// MaxBytes is how much the blocks may take up on disk, without the log of
	// the last hours; 0 is no bound.
	MaxBytes int64 `yaml:"max_bytes"`
	// OutOfOrderWindow is how much older than the newest sample of all nodes a
	// sample may be: what an agent kept while the control plane was away is
	// refused beyond it. >= 0.
	OutOfOrderWindow time.Duration `yaml:"out_of_order_window"`
	// QueryTimeout bounds one query; > 0.
	QueryTimeout time.Duration `yaml:"query_timeout"`
	// QueryMaxSamples bounds the samples that one query holds in memory; > 0.
	QueryMaxSamples int `yaml:"query_max_samples"`
	// QueryConcurrency is how many queries run at once; the others wait. > 0.
	QueryConcurrency int `yaml:"query_concurrency"`
	// Receive takes remote write, versions 1 and 2, on /api/v1/write.
	Receive bool `yaml:"receive"`
	// RemoteWrite are stores that all samples are sent to as well.
	RemoteWrite []RemoteWriteConfig `yaml:"remote_write"`
	// ExternalLabels are added to what is sent, and to alerts of rules.
	ExternalLabels map[string]string `yaml:"external_labels"`
	// QueryProxy answers queries from another store.
	QueryProxy QueryProxyConfig `yaml:"query_proxy"`
	// RuleFiles are patterns of files with recording and alerting rules, in
	// Prometheus' format. They are read again when they change.
	RuleFiles []string `yaml:"rule_files"`
	// EvaluationInterval is how often rules are evaluated that do not say it;
	// >= 1s.
	EvaluationInterval time.Duration `yaml:"evaluation_interval"`
}

// Defaults keeps 15 days of samples or 8 GiB in a directory.
func Defaults(dir string) Config {
	return Config{
		Dir:                dir,
		Retention:          15 * 24 * time.Hour,
		MaxBytes:           8 << 30,
		OutOfOrderWindow:   6 * time.Hour,
		QueryTimeout:       30 * time.Second,
		QueryMaxSamples:    10_000_000,
		QueryConcurrency:   8,
		Receive:            true,
		EvaluationInterval: time.Minute,
	}
}

// Check reports values that are out of range.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Dir == "" {
		report("dir", "is empty; name a directory")
	}
	if c.Retention < shortestKeep {
		report("retention", "is %s; want at least %s", c.Retention, shortestKeep)
	}
	if c.MaxBytes < 0 {
		report("max_bytes", "is %d; want 0 or more", c.MaxBytes)
	}
	if c.OutOfOrderWindow < 0 {
		report("out_of_order_window", "is %s; want 0 or more", c.OutOfOrderWindow)
	}
	if c.QueryTimeout <= 0 {
		report("query_timeout", "is %s; want more than 0", c.QueryTimeout)
	}
	if c.QueryMaxSamples <= 0 {
		report("query_max_samples", "is %d; want more than 0", c.QueryMaxSamples)
	}
	names := map[string]bool{}
	for i, r := range c.RemoteWrite {
		if names[r.Name] {
			report(fmt.Sprintf("remote_write[%d].name", i), "is that of another one, too; each store has its own")
		}
		names[r.Name] = true
	}
	if c.EvaluationInterval < time.Second {
		report("evaluation_interval", "is %s; want at least 1s", c.EvaluationInterval)
	}
	if c.QueryConcurrency <= 0 {
		report("query_concurrency", "is %d; want more than 0", c.QueryConcurrency)
	}
}

// Deps is what the database is given.
type Deps struct {
	Log   *slog.Logger
	Clock func() time.Time
	// Metrics are of remote write, out and in, and under Prometheus' own names of
	// the TSDB and of queries; nil shows them nowhere.
	Metrics prometheus.Registerer
}

// DB is the open database. All methods are safe for concurrent use.
type DB struct {
	clock      func() time.Time
	tsdb       *tsdb.DB
	counts     prometheus.Gatherer // the TSDB's own metrics
	engine     *promql.Engine
	parser     parser.Parser
	dictionary map[string]metric.Def
	config     Config
	sending    *senders     // nil when nothing is sent on
	receiver   http.Handler // nil when nothing is received
	proxied    http.Handler // nil when queries are answered here

	failing atomic.Pointer[error] // of the last append

	mu    sync.Mutex
	nodes map[string]*nodeSeries
	ruled *Rules // nil when there are none
}

// Open opens the database, making the directory where there is none, and
// replays its log. The caller closes it.
func Open(config Config, deps Deps) (*DB, error) {
	if deps.Metrics == nil {
		deps.Metrics = prometheus.NewRegistry()
	}
	log := slog.New(warnings{deps.Log.With("part", "tsdb").Handler()})
	counts := prometheus.NewRegistry()
	deps.Metrics.MustRegister(counts)
	store, err := tsdb.Open(config.Dir, log, counts, options(config), nil)
	if err != nil {
		return nil, fmt.Errorf("open metrics in %s: %w", config.Dir, err)
	}
	db := &DB{
		clock: deps.Clock, tsdb: store, counts: counts, parser: parser.NewParser(parser.Options{}),
		dictionary: map[string]metric.Def{}, nodes: map[string]*nodeSeries{}, config: config,
	}
	for _, def := range metric.All() {
		db.dictionary[def.Name] = def
	}
	db.engine = promql.NewEngine(promql.EngineOpts{
		Logger:               log,
		Reg:                  deps.Metrics,
		MaxSamples:           config.QueryMaxSamples,
		Timeout:              config.QueryTimeout,
		ActiveQueryTracker:   slots(make(chan struct{}, config.QueryConcurrency)),
		LookbackDelta:        lookback,
		EnableAtModifier:     true,
		EnableNegativeOffset: true,
		Parser:               db.parser,
	})
	if err := db.reach(log, deps); err != nil {
		return nil, errors.Join(fmt.Errorf("open metrics in %s: %w", config.Dir, err), db.Close())
	}
	return db, nil
}

// reach sets up what other stores have to do with this one.
func (db *DB) reach(log *slog.Logger, deps Deps) (err error) {
	if db.sending, err = sending(db.config, db.tsdb, deps.Log.With("part", "remote write"), deps.Metrics); err != nil {
		return err
	}
	if db.sending != nil {
		db.tsdb.SetWriteNotified(db.sending)
	}
	if db.config.Receive {
		db.receiver = receiver(db.tsdb, log, deps.Metrics)
	}
	if db.config.QueryProxy.URL != "" {
		db.proxied, err = proxy(db.config.QueryProxy, log)
	}
	return err
}

func options(config Config) *tsdb.Options {
	o := tsdb.DefaultOptions()
	o.RetentionDuration = config.Retention.Milliseconds()
	o.MaxBytes = config.MaxBytes
	o.OutOfOrderTimeWindow = config.OutOfOrderWindow.Milliseconds()
	o.MaxBlockDuration = max(min(config.Retention/10, longestBlock).Milliseconds(), o.MinBlockDuration)
	o.BlockReloadInterval = choresEvery
	o.WALSegmentSize = walSegmentBytes
	o.WALCompression = compression.Snappy
	o.StripeSize = stripes
	// A query may see a part of what a node sends at the moment; keeping them
	// apart takes a ring of memory for each series.
	o.IsolationDisabled = true
	o.HeadChunksWriteBufferSize = chunks.MinWriteBufferSize
	// Only remote write brings exemplars.
	o.EnableExemplarStorage, o.MaxExemplars = config.Receive, maxExemplars
	return o
}

// Close ends queries and appends and closes the files.
func (db *DB) Close() error {
	var sent error
	if db.sending != nil {
		sent = db.sending.Close()
	}
	if err := errors.Join(sent, db.engine.Close(), db.tsdb.Close()); err != nil {
		return fmt.Errorf("close metrics: %w", err)
	}
	return nil
}

// warnings passes on warnings and errors only: the TSDB tells of each of its
// hourly chores.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && w.Handler.Enabled(ctx, level)
}

func (w warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnings{w.Handler.WithAttrs(attrs)}
}

func (w warnings) WithGroup(name string) slog.Handler { return warnings{w.Handler.WithGroup(name)} }

// slots lets so many queries run at once as the channel has room.
type slots chan struct{}

// GetMaxConcurrent is how many queries may run at once.
func (s slots) GetMaxConcurrent() int { return cap(s) }

// Insert waits for a slot.
func (s slots) Insert(ctx context.Context, _ string) (int, error) {
	select {
	case s <- struct{}{}:
		return 0, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Delete gives a slot back.
func (s slots) Delete(int) { <-s }

// Close does nothing.
func (s slots) Close() error { return nil }
