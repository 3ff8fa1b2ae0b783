// Package report tells the control plane how the node is, as an event at a
// fixed interval: the figures that detection judges, out of the samples that
// collectors took last.
//
// A figure that no collector measured, or not lately, is absent. Shares of time
// are those between two samples of a counter, so they are of the whole time and
// not of the moment at which somebody looked.
package report

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Config is what users say about the reports.
type Config struct {
	// Interval is the time from one report to the next.
	Interval time.Duration `yaml:"interval"`
}

// Defaults is a report every ten seconds.
func Defaults() Config { return Config{Interval: 10 * time.Second} }

// Check reports an interval that makes no sense: detection takes the reports
// for the node's clock.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Interval < time.Second || c.Interval > 10*time.Minute {
		report("interval", "is %v; want 1s to 10m", c.Interval)
	}
}

// Deps is what reports are made of.
type Deps struct {
	// Latest gives the samples that collectors took last and that are not too
	// old; see [collect.Runner.Latest].
	Latest func(yield func(metric.Sample) bool)
	// Statuses gives each collector's status; see [collect.Runner.Statuses].
	Statuses func() map[string]collect.Status
	// Trainers gives the training processes that are registered.
	Trainers func() []collect.Trainer
	// Record records an event of the node.
	Record func(ctx context.Context, event *commonv1.Event) error
	Log    *slog.Logger
	Clock  func() time.Time
}

// Reporter makes the reports.
type Reporter struct {
	config Config
	deps   Deps
	rules  map[string]rule
	shares shares
}

// New makes a reporter; [Reporter.Run] runs it.
func New(config Config, deps Deps) *Reporter {
	return &Reporter{config: config, deps: deps, rules: rules(), shares: shares{}}
}

// settle is how long a report waits for collectors that woke up with it, so that
// it has what they measure now.
const settle = 250 * time.Millisecond

// Run reports until ctx ends. A report that cannot be recorded is lost: the
// next one says what matters.
func (r *Reporter) Run(ctx context.Context) error {
	failed := false
	for life.InStep(ctx, r.config.Interval) && life.Sleep(ctx, settle) {
		err := r.deps.Record(ctx, &commonv1.Event{
			Time: timestamppb.New(r.deps.Clock()),
			Body: &commonv1.Event_NodeReport{NodeReport: r.report()},
		})
		if err != nil && !failed && ctx.Err() == nil {
			r.deps.Log.Warn("report how the node is", "err", err)
		}
		failed = err != nil
	}
	return nil
}

// report makes one report.
func (r *Reporter) report() *commonv1.NodeReport {
	d := newDraft(&commonv1.NodeReport{IntervalSeconds: r.config.Interval.Seconds()}, r.shares, r.deps.Trainers())
	for name, status := range r.deps.Statuses() {
		if status != collect.Ok {
			if d.report.Collectors == nil {
				d.report.Collectors = map[string]string{}
			}
			d.report.Collectors[name] = string(status)
		}
	}
	r.deps.Latest(func(s metric.Sample) bool {
		if rule, ok := r.rules[s.Def.Name]; ok && len(s.Labels) == len(s.Def.Labels) {
			rule(d, s)
		}
		return true
	})
	d.finish()
	r.shares.forget()
	return d.report
}
