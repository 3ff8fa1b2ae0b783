// Package alertapi serves Alertmanager's HTTP API v2, so that what speaks to an
// Alertmanager speaks to Vigil unchanged: Prometheus and Mimir send their
// alerts, Grafana shows alerts and silences, amtool works.
//
// An external alert is an incident with the alert's labels. Source of the
// shapes: api/v2/openapi.yaml of Alertmanager. What Alertmanager would ignore is
// ignored; errors are a JSON text, as its are.
package alertapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/alerting/match"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// bodyMost is how large a request may be.
	bodyMost = 32 << 20
	// alertsShown is how many alerts are shown at most.
	alertsShown = 20000
)

// Incidents takes external alerts; the incident engine does.
type Incidents interface {
	// Externals takes in alerts.
	Externals(ctx context.Context, tx *store.Tx, alerts ...incident.External) error
	// Ping notes a sign of life; false when nobody expects it.
	Ping(ctx context.Context, name string) (expected bool, err error)
}

// Router decides who is told; it is routing's.
type Router interface {
	// SetSilence makes or changes a silence; ExpireSilence ends one.
	SetSilence(tx *store.Tx, silence *controlv1.Silence) (*controlv1.Silence, error)
	ExpireSilence(tx *store.Tx, id, author string) (*controlv1.Silence, error)
	// Describe gives an incident as an alert.
	Describe(tx *store.Tx, record store.IncidentRecord, now time.Time) (*controlv1.Alert, error)
	// Groups gives the groups with their alerts.
	Groups(tx *store.Tx, now time.Time) ([]routing.Group, error)
	// Receivers gives the receivers' names.
	Receivers() []string
}

// Deps is what code injects; all of it but Self.
type Deps struct {
	Store     *store.Store
	Incidents Incidents
	Router    Router
	// Config gives who is told of what as an alertmanager.yml says it.
	Config  func() (string, error)
	Clock   func() time.Time
	Log     *slog.Logger
	Version string
	// Self is this control plane's name among those that share its records; empty
	// where it has them to itself.
	Self string
	// Name puts names in the place of people's pseudonyms in a text; nil leaves them.
	Name func(ctx context.Context, text string) string
}

// API answers requests. Make one with [New].
type API struct {
	deps    Deps
	mux     *http.ServeMux
	started time.Time
}

// New makes an API.
func New(deps Deps) *API {
	a := &API{deps: deps, mux: http.NewServeMux(), started: deps.Clock()}
	for pattern, answer := range map[string]func(*http.Request) (any, error){
		"GET /api/v2/status":          a.status,
		"GET /api/v2/receivers":       a.receivers,
		"GET /api/v2/alerts":          a.listAlerts,
		"POST /api/v2/alerts":         a.postAlerts,
		"GET /api/v2/alerts/groups":   a.listGroups,
		"GET /api/v2/silences":        a.listSilences,
		"POST /api/v2/silences":       a.postSilence,
		"GET /api/v2/silence/{id}":    a.getSilence,
		"DELETE /api/v2/silence/{id}": a.deleteSilence,
		"POST /ping/{name}":           a.ping,
		"GET /-/healthy":              healthy,
		"GET /-/ready":                healthy,
	} {
		a.mux.HandleFunc(pattern, a.handle(answer))
	}
	return a
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// handle writes what an answer gives.
func (a *API) handle(answer func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, bodyMost)
		result, err := answer(r)
		status := http.StatusOK
		if err != nil {
			status = fault.KindOf(err).HTTPStatus()
			result = err.Error()
			if status >= http.StatusInternalServerError {
				a.deps.Log.Error("request failed", "path", r.URL.Path, "error", err)
			}
		}
		if result == nil {
			w.WriteHeader(status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(result) // whoever asked has gone away
	}
}

// read takes a JSON body. Only JSON: a form or plain text can be posted across
// sites by any web page.
func read(r *http.Request, into any) error {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		return fault.New(fault.Invalid, "want Content-Type: application/json")
	}
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return fault.New(fault.Invalid, "read body: %w", err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fault.New(fault.Invalid, "read JSON: %w", err)
	}
	return nil
}

func healthy(*http.Request) (any, error) { return "OK", nil }

// ping notes a sign of life of something that is expected.
func (a *API) ping(r *http.Request) (any, error) {
	name := r.PathValue("name")
	expected, err := a.deps.Incidents.Ping(r.Context(), name)
	if err != nil {
		return nil, err
	}
	if !expected {
		return nil, fault.New(fault.NotFound, "nobody expects %q: incident.expect has no rule with that ping", name)
	}
	return "OK", nil
}

func (a *API) receivers(r *http.Request) (any, error) {
	all := []labelled{}
	matchers, err := match.Parse(r.URL.Query()["receiver_matchers"]...)
	if err != nil {
		return nil, err
	}
	for _, name := range a.deps.Router.Receivers() {
		if labels := receiverLabels(name); matchers.Match(labels) {
			all = append(all, labelled{Name: name, Labels: labels})
		}
	}
	return all, nil
}

// receiverLabels is what a receiver is matched by: Vigil's have no more than their
// name.
func receiverLabels(name string) map[string]string { return map[string]string{"name": name} }

// named is a receiver by its name.
type named struct {
	Name string `json:"name"`
}

// labelled is a receiver with the labels of its own that Alertmanager's may have.
type labelled struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
}

func (a *API) status(r *http.Request) (any, error) {
	config, err := a.deps.Config()
	if err != nil {
		return nil, err
	}
	cluster, err := a.cluster(r)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"cluster": cluster,
		"config":  map[string]string{"original": config},
		"uptime":  a.started.UTC().Format(time.RFC3339Nano),
		"versionInfo": map[string]string{
			"version": a.deps.Version, "goVersion": runtime.Version(), "branch": "", "buildDate": "", "buildUser": "", "revision": "",
		},
	}, nil
}

// clusterStatus is the control planes that share their records.
type clusterStatus struct {
	Name   string `json:"name,omitempty"`
	Status string `json:"status"`
	Peers  []peer `json:"peers"`
}

type peer struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// cluster gives the control planes that share the records, this one among them;
// one that has them to itself has no cluster.
func (a *API) cluster(r *http.Request) (clusterStatus, error) {
	out := clusterStatus{Name: a.deps.Self, Status: "disabled", Peers: []peer{}}
	if a.deps.Self == "" {
		return out, nil
	}
	out.Status = "ready"
	err := a.view(r, func(tx *store.Tx) error {
		replicas, err := tx.Replicas()
		for _, one := range replicas {
			out.Peers = append(out.Peers, peer{Name: one.ID, Address: one.Address})
		}
		return err
	})
	return out, err
}

// flag reads a query's parameter that is true where nothing is said. What is not
// one of the words for true is false, as in Alertmanager's.
func flag(r *http.Request, name string) bool {
	switch strings.ToLower(r.URL.Query().Get(name)) {
	case "", "true", "1", "yes", "ok", "y", "on", "selected", "checked", "t", "enabled":
		return true
	}
	return false
}

func (a *API) view(r *http.Request, do func(*store.Tx) error) error {
	if err := a.deps.Store.View(r.Context(), do); err != nil {
		return fmt.Errorf("read %s: %w", r.URL.Path, err)
	}
	return nil
}
