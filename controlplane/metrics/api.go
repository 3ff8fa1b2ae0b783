package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/annotations"
)

const maxFormBytes = 1 << 20

// Kinds of errors of Prometheus' API.
const (
	errorBadData   = "bad_data"
	errorExecution = "execution"
	errorCanceled  = "canceled"
	errorTimeout   = "timeout"
	errorInternal  = "internal"
)

// apiError is an error with its kind in Prometheus' API.
type apiError struct {
	kind string
	err  error
}

func (e *apiError) Error() string { return e.err.Error() }
func (e *apiError) Unwrap() error { return e.err }

func badParameter(name string, err error) error {
	return &apiError{errorBadData, fmt.Errorf("invalid parameter %q: %w", name, err)}
}

// answer is what a call gives: its data and what is odd about it.
type answer struct {
	data any
	odd  annotations.Annotations
}

// Handler serves the part of Prometheus' HTTP API that dashboards and clients
// need, below /api/v1/: query, query_range, format_query, labels,
// label/NAME/values, series, metadata, query_exemplars, rules, alerts,
// status/buildinfo, status/tsdb and admin/tsdb/snapshot; and, where it is on, takes remote
// write. With a store for queries, that one answers what is asked of samples, and
// nothing else is handed on to it: what changes a store is not for who may read
// this one. Parameters come in the URL, or as a form with POST. Answers have the
// shape of Prometheus' own.
func (db *DB) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, call func(*http.Request) (answer, error), methods ...string) {
		for _, method := range methods {
			mux.HandleFunc(method+" "+pattern, func(w http.ResponseWriter, r *http.Request) {
				r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
				if err := r.ParseForm(); err != nil {
					respond(w, answer{}, &apiError{errorBadData, fmt.Errorf("parse form: %w", err)})
					return
				}
				got, err := call(r)
				respond(w, got, err)
			})
		}
	}
	elsewhere := func(pattern string, call func(*http.Request) (answer, error), methods ...string) {
		if db.proxied == nil {
			handle(pattern, call, methods...)
			return
		}
		for _, method := range methods {
			mux.Handle(method+" "+pattern, db.proxied)
		}
	}
	elsewhere("/api/v1/query", db.query, http.MethodGet, http.MethodPost)
	elsewhere("/api/v1/query_range", db.queryRange, http.MethodGet, http.MethodPost)
	elsewhere("/api/v1/labels", db.labelNames, http.MethodGet, http.MethodPost)
	elsewhere("/api/v1/label/{name}/values", db.labelValues, http.MethodGet)
	elsewhere("/api/v1/series", db.series, http.MethodGet, http.MethodPost)
	elsewhere("/api/v1/metadata", db.metadata, http.MethodGet)
	elsewhere("/api/v1/query_exemplars", db.exemplars, http.MethodGet, http.MethodPost)
	handle("/api/v1/format_query", db.formatQuery, http.MethodGet, http.MethodPost)
	handle("/api/v1/status/tsdb", db.tsdbStatus, http.MethodGet)
	handle("/api/v1/status/buildinfo", db.buildInfo, http.MethodGet)
	handle("/api/v1/rules", db.ruleGroups, http.MethodGet)
	handle("/api/v1/alerts", db.alerts, http.MethodGet)
	handle("/api/v1/admin/tsdb/snapshot", db.snapshot, http.MethodPost, http.MethodPut)
	if db.receiver != nil {
		mux.Handle("POST /api/v1/write", db.receiver)
	}
	return mux
}

// respond writes Prometheus' envelope.
func respond(w http.ResponseWriter, a answer, err error) {
	envelope := struct {
		Status    string   `json:"status"`
		Data      any      `json:"data,omitempty"`
		ErrorType string   `json:"errorType,omitempty"`
		Error     string   `json:"error,omitempty"`
		Warnings  []string `json:"warnings,omitempty"`
		Infos     []string `json:"infos,omitempty"`
	}{Status: "success", Data: a.data}
	envelope.Warnings, envelope.Infos = a.odd.AsStrings("", 10, 10)
	code := http.StatusOK
	if err != nil {
		envelope.Status, envelope.Error = "error", err.Error()
		envelope.ErrorType, code = classify(err)
	}
	body, err := json.Marshal(envelope)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body)
}

// classify gives an error's kind and HTTP status, as Prometheus does.
func classify(err error) (kind string, code int) {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e.kind, http.StatusBadRequest
	}
	if _, ok := errors.AsType[promql.ErrQueryTimeout](err); ok || errors.Is(err, context.DeadlineExceeded) {
		return errorTimeout, http.StatusServiceUnavailable
	}
	if _, ok := errors.AsType[promql.ErrQueryCanceled](err); ok || errors.Is(err, context.Canceled) {
		return errorCanceled, 499
	}
	if _, ok := errors.AsType[promql.ErrStorage](err); ok {
		return errorInternal, http.StatusInternalServerError
	}
	return errorExecution, http.StatusUnprocessableEntity
}

// window is the times and matchers that the calls about labels have in common.
type window struct {
	start, end int64
	matchers   [][]*labels.Matcher
	limit      int
}

func (db *DB) window(r *http.Request) (w window, err error) {
	w = window{start: math.MinInt64, end: math.MaxInt64}
	for name, at := range map[string]*int64{"start": &w.start, "end": &w.end} {
		if r.Form.Get(name) == "" {
			continue
		}
		t, err := timeParameter(r, name, time.Time{})
		if err != nil {
			return w, err
		}
		*at = t.UnixMilli()
	}
	if w.limit, err = limitParameter(r); err != nil {
		return w, err
	}
	if w.matchers, err = db.parser.ParseMetricSelectors(r.Form["match[]"]); err != nil {
		return w, badParameter("match[]", err)
	}
	for _, set := range w.matchers {
		if !slices.ContainsFunc(set, func(m *labels.Matcher) bool { return !m.Matches("") }) {
			return w, badParameter("match[]", errors.New("match[] must contain at least one non-empty matcher"))
		}
	}
	return w, nil
}

// timeParameter reads seconds since 1970 or RFC 3339.
func timeParameter(r *http.Request, name string, otherwise time.Time) (time.Time, error) {
	text := r.Form.Get(name)
	if text == "" && !otherwise.IsZero() {
		return otherwise, nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(seconds) < math.MaxInt64/1000 {
		return time.UnixMilli(int64(math.Round(seconds * 1000))), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, badParameter(name, fmt.Errorf("cannot parse %q to a valid timestamp", text))
	}
	return t, nil
}

// durationParameter reads seconds or a duration such as 5m.
func durationParameter(r *http.Request, name string) (time.Duration, error) {
	text := r.Form.Get(name)
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(seconds) < math.MaxInt64/1e9 {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	d, err := model.ParseDuration(text)
	if err != nil {
		return 0, badParameter(name, fmt.Errorf("cannot parse %q to a valid duration", text))
	}
	return time.Duration(d), nil
}

// limitParameter reads how much is wanted at most; 0 is all.
func limitParameter(r *http.Request) (int, error) {
	text := r.Form.Get("limit")
	if text == "" {
		return 0, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 0 {
		return 0, badParameter("limit", fmt.Errorf("%q is not a number of 0 or more", text))
	}
	return limit, nil
}
