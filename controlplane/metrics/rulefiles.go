package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"

	"github.com/vigil-ml/vigil/internal/life"
)

// reloadEvery is how often rule files are looked at for changes.
const reloadEvery = 30 * time.Second

// Alert is an alert of a rule, as often as it is told: when it begins to fire,
// again while it fires, and when it is over.
type Alert struct {
	Labels, Annotations map[string]string
	Value               float64 // of the rule's expression, when it was evaluated last
	Starts              time.Time
	// Ends is when it was over, or until when it is to be believed.
	Ends         time.Time
	GeneratorURL string
}

// RuleDeps is what rules are given.
type RuleDeps struct {
	// Tell is called with the alerts of one rule.
	Tell        func(ctx context.Context, alerts []Alert) error
	ExternalURL string
	Metrics     prometheus.Registerer
	Log         *slog.Logger
}

// Rules evaluates recording and alerting rules of files in Prometheus' format.
type Rules struct {
	db      *DB
	deps    RuleDeps
	manager *rules.Manager
}

// NewRules makes the rules; Run evaluates them. It fails when a file cannot be
// read or is wrong.
func (db *DB) NewRules(deps RuleDeps) (*Rules, error) {
	external, err := url.Parse(deps.ExternalURL)
	if err != nil {
		return nil, fmt.Errorf("read external URL: %w", err)
	}
	r := &Rules{db: db, deps: deps}
	r.manager = rules.NewManager(&rules.ManagerOptions{
		ExternalURL:  external,
		QueryFunc:    rules.EngineQueryFunc(db.engine, db.tsdb),
		NotifyFunc:   r.tell,
		Context:      context.Background(),
		AppendableV2: db.tsdb, Queryable: db.tsdb,
		Logger: deps.Log, Registerer: deps.Metrics,
		OutageTolerance: time.Hour, ForGracePeriod: 10 * time.Minute, ResendDelay: time.Minute,
		DefaultRuleQueryOffset: func() time.Duration { return 0 },
		Parser:                 db.parser,
	})
	if err := r.load(); err != nil {
		r.manager.Stop()
		return nil, err
	}
	db.mu.Lock()
	db.ruled = r
	db.mu.Unlock()
	return r, nil
}

// load reads the files; those that did not change go on as they were.
func (r *Rules) load() error {
	var files []string
	for _, pattern := range r.db.config.RuleFiles {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("find rule files %s: %w", pattern, err)
		}
		files = append(files, found...)
	}
	if err := r.manager.Update(r.db.config.EvaluationInterval, files, labels.FromMap(r.db.config.ExternalLabels), r.deps.ExternalURL, nil); err != nil {
		return fmt.Errorf("read rule files: %w", err)
	}
	return nil
}

// Run evaluates the rules until ctx ends, and reads the files again now and
// then; a file that is wrong changes nothing.
func (r *Rules) Run(ctx context.Context) error {
	return life.All(ctx,
		life.Task{Name: "rules", Run: func(context.Context) error { r.manager.Run(); return nil }},
		life.Task{Name: "rule files", Run: func(ctx context.Context) error {
			for life.Sleep(ctx, reloadEvery) {
				if err := r.load(); err != nil {
					r.deps.Log.Error("rules stay as they were", "error", err)
				}
			}
			r.manager.Stop()
			return nil
		}})
}

// tell hands the alerts of a rule on.
func (r *Rules) tell(ctx context.Context, expr string, alerts ...*rules.Alert) {
	var all []Alert
	for _, a := range alerts {
		one := Alert{
			Labels: a.Labels.Map(), Annotations: a.Annotations.Map(), Value: a.Value, Starts: a.FiredAt, Ends: a.ValidUntil,
			GeneratorURL: r.deps.ExternalURL + "/api/v1/query?query=" + url.QueryEscape(expr),
		}
		if !a.ResolvedAt.IsZero() {
			one.Ends = a.ResolvedAt
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return
	}
	if err := r.deps.Tell(ctx, all); err != nil && ctx.Err() == nil {
		r.deps.Log.Error("alerts of a rule are not told; they are told again within a minute", "rule", alerts[0].Labels.Get(labels.AlertName), "error", err)
	}
}
