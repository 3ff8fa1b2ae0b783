// Package incident makes findings into incidents, answers them, and follows
// them until they are over.
//
// Findings of one run and attempt are one problem and one incident, whatever
// rank and kind they have, until it is resolved. But a warning calls nobody,
// unless a route says otherwise: its incident is there for who looks, and a critical
// finding that began later opens its own. A later attempt that meets the same
// problem, a finding of the same kind that began at the same step, makes it come
// again instead of opening another one: see again.go. An incident, its timeline
// and the notifications about it are written in the transaction of the event
// that caused them. An incident is resolved when a later attempt of the run gets
// past the steps at which its findings began, when the run ends, or when no
// detector sees its problems any more (over.go).
//
// A problem of a node opens an incident of the node, one for each of its parts.
// A run that it hits becomes part of it: there is one incident, which names the
// cause first, and it is over when the node's problem is and the run got past
// it. See node.go.
package incident

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	firing       = controlv1.IncidentState_INCIDENT_STATE_FIRING
	acknowledged = controlv1.IncidentState_INCIDENT_STATE_ACKNOWLEDGED
	resolved     = controlv1.IncidentState_INCIDENT_STATE_RESOLVED
)

// Config says how incidents are answered.
type Config struct {
	// CheckpointTimeout is how long an emergency checkpoint may take, from the
	// finding until it is verified.
	CheckpointTimeout time.Duration `yaml:"checkpoint_timeout"`
	// ResolveAfter is after how long without anything new an incident is over; 0
	// is never.
	ResolveAfter time.Duration `yaml:"resolve_after"`
	// ExternalTimeout is after how long an alert that a Prometheus sent without
	// an end is over, unless it sends it again; Alertmanager's resolve_timeout.
	ExternalTimeout time.Duration `yaml:"external_timeout"`
	// Expect is what must keep arriving; when it does not, an incident opens.
	Expect []Expect `yaml:"expect"`
}

// Defaults gives an emergency checkpoint one minute, an incident of which
// nothing is heard a week, and an external alert five minutes.
func Defaults() Config {
	return Config{
		CheckpointTimeout: fleet.DefaultTimeout, ResolveAfter: 7 * 24 * time.Hour, ExternalTimeout: 5 * time.Minute,
	}
}

// Check reports a timeout that no checkpoint could keep.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.CheckpointTimeout < time.Second {
		report("checkpoint_timeout", "is %s; want at least 1s", c.CheckpointTimeout)
	}
	if c.ResolveAfter < 0 {
		report("resolve_after", "is %s; want 0 for never, or more", c.ResolveAfter)
	}
	if c.ExternalTimeout < time.Second {
		report("external_timeout", "is %s; want at least 1s", c.ExternalTimeout)
	}
}

// Router decides who is told of an incident that changed.
type Router interface {
	// Alert writes what is to be told into the transaction.
	Alert(ctx context.Context, tx *store.Tx, records ...store.IncidentRecord) error
	// Happened is told that an incident's timeline has something new of which
	// nobody need be told by a notification of its own.
	Happened(tx *store.Tx, incidentID string) error
}

// Deps is what an engine needs.
type Deps struct {
	Router Router
	// Save has a run saved; it writes into the transaction. It is the fleet's
	// RequestCheckpoint.
	Save func(*store.Tx, fleet.SaveRequest) (*controlv1.Checkpoint, error)
	// Judge has agents take in that checkpoints are suspect; it writes into the
	// transaction. It is the fleet's Judge; nil: nobody is told.
	Judge   func(*store.Tx, *commonv1.CheckpointJudgement) error
	Store   *store.Store // for the gauge of firing incidents
	Clock   func() time.Time
	Log     *slog.Logger
	Tracer  trace.Tracer
	Metrics prometheus.Registerer
}

// Engine makes and follows incidents. It has no state of its own, so a
// transaction that is rolled back leaves nothing behind. It is safe for
// concurrent use.
type Engine struct {
	config Config
	deps   Deps
	heard  *heard
}

// New makes an engine and registers its gauge.
func New(config Config, deps Deps) *Engine {
	deps.Metrics.MustRegister(&firingGauge{deps.Store})
	return &Engine{config, deps, newHeard(config.Expect, deps.Store.Shared(), deps.Clock())}
}

// Apply takes in an event and the findings that it led to, which are stored
// already and new. It is called after the event was applied to the run. Its
// errors are the store's.
func (e *Engine) Apply(ctx context.Context, tx *store.Tx, event *commonv1.Event, findings []*controlv1.Finding) error {
	e.heard.event(event, e.deps.Clock())
	if err := e.writeHeard(tx, e.heard.unwritten()); err != nil {
		return err
	}
	if len(findings) > 0 && (event.GetTraceparent() != "" || trace.SpanContextFromContext(ctx).IsValid()) {
		var span trace.Span
		ctx, span = e.deps.Tracer.Start(ctx, "vigil.incident")
		defer span.End()
	}
	for _, finding := range findings {
		if err := e.take(ctx, tx, event, finding); err != nil {
			return fmt.Errorf("take finding %s: %w", finding.GetFindingId(), err)
		}
	}
	err := e.follow(ctx, tx, event)
	if len(findings) > 0 && err == nil {
		err = e.runEnded(ctx, tx, event) // it may have ended before they came
	}
	if err != nil {
		return fmt.Errorf("follow incidents of run %s: %w", event.GetRunId(), err)
	}
	return nil
}

// take makes a finding part of the open incident of the node's problem that is
// its cause, or of its run and attempt, or of the one whose problem comes again with it, or opens one.
func (e *Engine) take(ctx context.Context, tx *store.Tx, event *commonv1.Event, f *controlv1.Finding) error {
	if err := e.judge(tx, f, 0); err != nil {
		return err
	}
	if f.GetProblem() != "" {
		return e.takeNode(ctx, tx, f)
	}
	if f.GetCause() != nil {
		if done, err := e.hit(ctx, tx, event, f); done || err != nil {
			return err
		}
	}
	open, err := tx.OpenIncidents(f.GetRunId())
	if err != nil {
		return err
	}
	for _, record := range open {
		joins := record.Attempt == f.GetAttempt() && belongs(f, record)
		if record.Attempt > f.GetAttempt() { // late word of what has come again since
			if joins, err = tx.HasFinding(record.Incident.GetIncidentId(), f.GetKind(), f.GetOnsetStep()); err != nil {
				return err
			}
		}
		if joins {
			return e.join(ctx, tx, event, f, record)
		}
	}
	record, came, err := cameAgain(tx, f, open)
	if err != nil {
		return err
	}
	if came {
		return e.again(ctx, tx, event, f, record)
	}
	return e.open(ctx, tx, event, f)
}

// belongs tells whether a finding is part of an incident. A warning from early
// in a run must not become the cause of what breaks the run days later.
func belongs(f *controlv1.Finding, record store.IncidentRecord) bool {
	return f.GetSeverity() <= record.Incident.GetSeverity() || !quiet(record.Incident) || f.GetOnsetStep() <= record.OnsetStep
}

// quiet tells whether an incident is one that calls nobody, unless a route says
// otherwise.
func quiet(i *controlv1.Incident) bool {
	return i.GetSeverity() == commonv1.Severity_SEVERITY_WARNING || i.GetSeverity() == commonv1.Severity_SEVERITY_INFO
}

// open opens an incident, answers it, and has everybody told.
func (e *Engine) open(ctx context.Context, tx *store.Tx, event *commonv1.Event, f *controlv1.Finding) error {
	now := e.deps.Clock()
	record := store.IncidentRecord{
		Attempt: f.GetAttempt(), OnsetStep: f.GetOnsetStep(), Findings: 1, Occurrences: 1, Latest: f.GetFindingId(),
		Changed: now, Expires: e.expiry(now),
		Incident: &controlv1.Incident{
			IncidentId: ID(f.GetFindingId()), RunId: f.GetRunId(), Kind: f.GetKind(),
			Severity: f.GetSeverity(), State: firing, Opened: timestamppb.New(now),
		},
	}
	id := record.Incident.GetIncidentId()
	tx.Opens(id) // the finding is new, and so is what it is named by
	if err := note(tx, id, now, "opened", f.GetSummary()); err != nil {
		return err
	}
	answer, err := e.answer(ctx, tx, event, f, record)
	if err != nil {
		return err
	}
	if record.Incident.Summary, err = summary(tx, f, answer); err != nil {
		return err
	}
	return errors.Join(tx.PutIncident(record), tx.AttachFinding(id, f.GetFindingId()), e.deps.Router.Alert(ctx, tx, record))
}

// join makes a finding part of an open incident. The incident then speaks of
// its cause, which may be the new finding; everybody is told again only when
// it has become more severe.
func (e *Engine) join(ctx context.Context, tx *store.Tx, event *commonv1.Event, f *controlv1.Finding, record store.IncidentRecord) error {
	i := record.Incident
	worse := f.GetSeverity() > i.GetSeverity()
	// That nothing more is tried is news, however severe what led to it was.
	news := worse || (f.GetKind() == gaveUp && !quiet(i))
	i.Severity = max(i.GetSeverity(), f.GetSeverity())
	record.OnsetStep = max(record.OnsetStep, f.GetOnsetStep())
	record.Findings++
	record.Expires = e.expiry(e.deps.Clock())
	if worse && i.GetState() == acknowledged {
		i.State = firing // who took it took something less
	}
	if err := tx.AttachFinding(i.GetIncidentId(), f.GetFindingId()); err != nil {
		return err
	}
	if text := another(record.Findings, f); text != "" {
		if err := e.happened(tx, i.GetIncidentId(), e.deps.Clock(), "finding", text, ""); err != nil {
			return err
		}
	}
	answer, err := e.answer(ctx, tx, event, f, record)
	if err != nil {
		return err
	}
	cause, err := tx.Cause(i.GetIncidentId())
	if err != nil {
		return err
	}
	if cause.GetFindingId() == f.GetFindingId() || answer.done != "" {
		i.Kind = cause.GetKind()
		if i.Summary, err = summary(tx, cause, answer); err != nil {
			return err
		}
	}
	if err := tx.PutIncident(record); err != nil || !news {
		return err
	}
	return e.deps.Router.Alert(ctx, tx, record)
}

// another is what the timeline says of one more finding: each of the first
// few, then only when their number has doubled.
func another(count int64, f *controlv1.Finding) string {
	switch {
	case count <= 4:
		return f.GetSummary()
	case count&(count-1) == 0:
		return fmt.Sprintf("%d findings so far; the latest: %s", count, f.GetSummary())
	}
	return ""
}

// expiry is when an incident is over of which nothing more is heard.
func (e *Engine) expiry(now time.Time) time.Time {
	if e.config.ResolveAfter == 0 {
		return time.Time{}
	}
	return now.Add(e.config.ResolveAfter)
}

// happened notes what happened to an incident that changes nothing about its
// state; who follows it is told.
func (e *Engine) happened(tx *store.Tx, id string, at time.Time, action, text, author string) error {
	if err := noteBy(tx, id, at, action, text, author); err != nil {
		return err
	}
	return e.deps.Router.Happened(tx, id)
}

func note(tx *store.Tx, id string, at time.Time, action, text string) error {
	return tx.AddTimeline(id, &controlv1.TimelineEntry{Time: timestamppb.New(at), Action: action, Text: text})
}

// idLength is the length of a found incident's id without its prefix, in
// characters of 5 bits: short enough to say on the telephone, and among a
// million incidents two have the same once in two million installations.
const idLength = 12

// ID is the id of the incident that a finding opens: the same whenever the
// finding is made again.
func ID(findingID string) string {
	sum := sha256.Sum256([]byte(findingID))
	return "inc-" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:idLength])
}
