// Package log writes incidents into the control plane's own log. It is the
// receiver of an installation that has configured none.
package log

import (
	"context"
	"log/slog"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/plug"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Kind is the notifier's entry in the catalogue.
var Kind = plug.Of[notify.Notifier, notify.Deps]("log", Config{}, New)

// Config is what users write: nothing yet.
type Config struct{}

// New makes the notifier.
func New(_ Config, deps notify.Deps) (notify.Notifier, error) {
	return &notifier{log: deps.Log}, nil
}

type notifier struct{ log *slog.Logger }

// Notify writes one record: an incident that is over at level info, one that
// is critical at level error, any other at level warn. It never fails.
func (n *notifier) Notify(ctx context.Context, delivery alert.Delivery) error {
	level := slog.LevelWarn
	switch {
	case delivery.Resolved():
		level = slog.LevelInfo
	case delivery.Incident.GetSeverity() == commonv1.Severity_SEVERITY_CRITICAL:
		level = slog.LevelError
	}
	attrs := []slog.Attr{
		slog.String("incident", delivery.Incident.GetIncidentId()),
		slog.String("run", delivery.Incident.GetRunId()),
		slog.String("kind", delivery.Incident.GetKind()),
		slog.String("state", alert.State(delivery.State)),
	}
	if f := delivery.Finding(); f != nil {
		attrs = append(attrs, slog.String("node", f.GetNode()),
			slog.Uint64("rank", uint64(f.GetRank())), slog.Int64("step", f.GetOnsetStep()))
	}
	if lasted, ok := delivery.Duration(); ok {
		attrs = append(attrs, slog.String("lasted", alert.Lasted(lasted)))
	}
	n.log.LogAttrs(ctx, level, delivery.Summary(), attrs...)
	return nil
}
