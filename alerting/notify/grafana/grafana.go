// Package grafana marks incidents on dashboards: an annotation that opens with
// the incident and becomes a region when it is over.
package grafana

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the notifier's entry in the catalogue.
var Kind = plug.Of[notify.Notifier, notify.Deps]("grafana", Config{}, New)

// Config is what users write.
type Config struct {
	// URL is Grafana's own.
	URL notify.Secret `yaml:"url"`
	// Token is a service account's that may write annotations.
	Token notify.Secret `yaml:"token"`
	// DashboardUID is the dashboard, with {run} where the run's id stands if each
	// run has one of its own; empty writes for the whole organisation, which
	// dashboards show by tag. So is what is of no run then.
	DashboardUID string `yaml:"dashboard_uid"`
	// PanelID is one panel of it; 0 means all.
	PanelID int64 `yaml:"panel_id"`
	// Tags are added to vigil, the kind, the severity and the run.
	Tags []string `yaml:"tags"`
}

// Check reports what is missing.
func (c Config) Check(report func(key, format string, args ...any)) {
	notify.CheckURL(report, "url", c.URL)
	notify.CheckSecret(report, "token", c.Token)
	if c.PanelID < 0 {
		report("panel_id", "is %d; want 0 or more", c.PanelID)
	}
	if c.PanelID > 0 && c.DashboardUID == "" {
		report("panel_id", "is of no dashboard; name it with dashboard_uid")
	}
}

// New makes the notifier.
func New(config Config, deps notify.Deps) (notify.Notifier, error) {
	return &notifier{config: config, deps: deps}, nil
}

type notifier struct {
	config Config
	deps   notify.Deps
}

// annotation is what Grafana takes; times are milliseconds since 1970.
// Source: https://grafana.com/docs/grafana/latest/developers/http_api/annotations
type annotation struct {
	DashboardUID string   `json:"dashboardUID,omitempty"`
	PanelID      int64    `json:"panelId,omitempty"`
	Time         int64    `json:"time"`
	TimeEnd      int64    `json:"timeEnd,omitempty"`
	Tags         []string `json:"tags"`
	Text         string   `json:"text"`
}

// Notify writes an annotation, or changes the one that it wrote. One that
// somebody deleted is written anew.
func (n *notifier) Notify(ctx context.Context, delivery alert.Delivery) error {
	known, err := n.deps.Recall(ctx, delivery.Key)
	if err != nil {
		return err
	}
	id, err := n.write(ctx, delivery, known)
	if known != "" && notify.StatusOf(err) == http.StatusNotFound {
		id, err = n.write(ctx, delivery, "")
	}
	switch {
	case err != nil:
		return err
	case delivery.Resolved():
		id = ""
	}
	if id == known {
		return nil
	}
	return n.deps.Remember(ctx, delivery.Key, id)
}

// write makes an annotation, or changes the one with an id; it gives the id,
// "" when Grafana did not say it.
func (n *notifier) write(ctx context.Context, d alert.Delivery, id string) (string, error) {
	a := annotation{
		DashboardUID: n.dashboard(d), PanelID: n.config.PanelID,
		Time: millis(d.Incident.GetOpened(), d.Created), Tags: n.tags(d), Text: textOf(d, n.deps),
	}
	if a.DashboardUID == "" {
		a.PanelID = 0
	}
	if d.Resolved() {
		a.TimeEnd = max(a.Time, millis(d.Incident.GetResolved(), d.Created))
	}
	post := notify.Post{
		URL: n.config.URL, Path: "/api/annotations",
		Headers: map[string]notify.Secret{"Authorization": "Bearer " + n.config.Token},
	}
	if id != "" {
		post.Method, post.Path = http.MethodPatch, "/api/annotations/"+id
		a.DashboardUID, a.PanelID = "", 0 // they cannot be changed
	}
	var err error
	if post.Body, err = json.Marshal(a); err != nil {
		return "", notify.Permanent(fmt.Errorf("write annotation: %w", err))
	}
	reply, err := post.Send(ctx, n.deps)
	if err != nil || id != "" {
		return id, err
	}
	var made struct {
		ID int64 `json:"id"`
	}
	// What cannot be read was taken all the same; its end is then one of its own.
	if json.Unmarshal(reply.Body, &made) != nil || made.ID == 0 {
		return "", nil
	}
	return strconv.FormatInt(made.ID, 10), nil
}

// dashboard is the one on which an incident is marked.
func (n *notifier) dashboard(d alert.Delivery) string {
	run := d.Incident.GetRunId()
	if run == "" && strings.Contains(n.config.DashboardUID, runMark) {
		return ""
	}
	return strings.ReplaceAll(n.config.DashboardUID, runMark, run)
}

// runMark stands for the run's id in a dashboard's.
const runMark = "{run}"

func (n *notifier) tags(d alert.Delivery) []string {
	tags := []string{"vigil", d.Kind(), alert.State(d.State), "incident:" + d.Incident.GetIncidentId()}
	if run := d.Incident.GetRunId(); run != "" {
		tags = append(tags, "run:"+run)
	}
	if severity := alert.Severity(d.Incident.GetSeverity()); severity != "" {
		tags = append(tags, severity)
	}
	return append(tags, n.config.Tags...)
}

func millis(t *timestamppb.Timestamp, otherwise time.Time) int64 {
	if t == nil {
		return otherwise.UnixMilli()
	}
	return t.AsTime().UnixMilli()
}
