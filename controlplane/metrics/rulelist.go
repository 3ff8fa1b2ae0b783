package metrics

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"
)

// apiGroup, apiAlerting, apiRecording and apiAlert are what Prometheus' API says
// of rules.
type (
	apiGroup struct {
		Name           string    `json:"name"`
		File           string    `json:"file"`
		Rules          []any     `json:"rules"`
		Interval       float64   `json:"interval"`
		Limit          int       `json:"limit"`
		EvaluationTime float64   `json:"evaluationTime"`
		LastEvaluation time.Time `json:"lastEvaluation"`
	}
	apiAlerting struct {
		State          string           `json:"state"`
		Name           string           `json:"name"`
		Query          string           `json:"query"`
		Duration       float64          `json:"duration"`
		KeepFiringFor  float64          `json:"keepFiringFor"`
		Labels         labels.Labels    `json:"labels"`
		Annotations    labels.Labels    `json:"annotations"`
		Alerts         []apiAlert       `json:"alerts"`
		Health         rules.RuleHealth `json:"health"`
		LastError      string           `json:"lastError,omitempty"`
		EvaluationTime float64          `json:"evaluationTime"`
		LastEvaluation time.Time        `json:"lastEvaluation"`
		Type           string           `json:"type"`
	}
	apiRecording struct {
		Name           string           `json:"name"`
		Query          string           `json:"query"`
		Labels         labels.Labels    `json:"labels"`
		Health         rules.RuleHealth `json:"health"`
		LastError      string           `json:"lastError,omitempty"`
		EvaluationTime float64          `json:"evaluationTime"`
		LastEvaluation time.Time        `json:"lastEvaluation"`
		Type           string           `json:"type"`
	}
	apiAlert struct {
		Labels          labels.Labels `json:"labels"`
		Annotations     labels.Labels `json:"annotations"`
		State           string        `json:"state"`
		ActiveAt        *time.Time    `json:"activeAt,omitempty"`
		KeepFiringSince *time.Time    `json:"keepFiringSince,omitempty"`
		Value           string        `json:"value"`
	}
)

// ruleChoice is which rules are asked for; an empty list asks for all.
type ruleChoice struct {
	kind                string // "alert", "record" or both
	names, groups, file []string
	matchers            [][]*labels.Matcher
	withoutAlerts       bool
}

func (db *DB) ruleChoice(r *http.Request) (c ruleChoice, err error) {
	c = ruleChoice{
		kind: strings.ToLower(r.Form.Get("type")), names: r.Form["rule_name[]"], groups: r.Form["rule_group[]"], file: r.Form["file[]"],
	}
	if !slices.Contains([]string{"", "alert", "record"}, c.kind) {
		return c, badParameter("type", errors.New("not supported value "+strconv.Quote(c.kind)))
	}
	if without := r.Form.Get("exclude_alerts"); without != "" {
		if c.withoutAlerts, err = strconv.ParseBool(without); err != nil {
			return c, badParameter("exclude_alerts", err)
		}
	}
	if c.matchers, err = db.parser.ParseMetricSelectors(r.Form["match[]"]); err != nil {
		return c, &apiError{errorBadData, err}
	}
	return c, nil
}

// ruleGroups answers /api/v1/rules, all on one page.
func (db *DB) ruleGroups(r *http.Request) (answer, error) {
	choice, err := db.ruleChoice(r)
	if err != nil {
		return answer{}, err
	}
	groups := []apiGroup{}
	for _, g := range db.rules() {
		if !among(choice.groups, g.Name()) || !among(choice.file, g.File()) {
			continue
		}
		one := apiGroup{
			Name: g.Name(), File: g.File(), Rules: []any{}, Interval: g.Interval().Seconds(), Limit: g.Limit(),
			EvaluationTime: g.GetEvaluationTime().Seconds(), LastEvaluation: g.GetLastEvaluation(),
		}
		for _, rule := range g.Rules(choice.matchers...) {
			if said := choice.describe(rule); said != nil {
				one.Rules = append(one.Rules, said)
			}
		}
		if len(one.Rules) > 0 {
			groups = append(groups, one)
		}
	}
	return answer{data: map[string]any{"groups": groups}}, nil
}

func among(wanted []string, name string) bool {
	return len(wanted) == 0 || slices.Contains(wanted, name)
}

// describe says what there is to say of a rule; nil when it is not asked for.
func (c ruleChoice) describe(r rules.Rule) any {
	if !among(c.names, r.Name()) {
		return nil
	}
	lastError := ""
	if err := r.LastError(); err != nil {
		lastError = err.Error()
	}
	took, at := r.GetEvaluationDuration().Seconds(), r.GetEvaluationTimestamp()
	switch a, alerting := r.(*rules.AlertingRule); {
	case alerting && c.kind != "record":
		var alerts []apiAlert
		if !c.withoutAlerts {
			alerts = active(a)
		}
		return apiAlerting{
			a.State().String(), a.Name(), a.Query().String(), a.HoldDuration().Seconds(), a.KeepFiringFor().Seconds(), a.Labels(), a.Annotations(),
			alerts, a.Health(), lastError, took, at, "alerting",
		}
	case !alerting && c.kind != "alert":
		return apiRecording{r.Name(), r.Query().String(), r.Labels(), r.Health(), lastError, took, at, "recording"}
	}
	return nil
}

// alerts answers /api/v1/alerts.
func (db *DB) alerts(*http.Request) (answer, error) {
	all := []apiAlert{}
	for _, g := range db.rules() {
		for _, a := range g.AlertingRules() {
			all = append(all, active(a)...)
		}
	}
	return answer{data: map[string]any{"alerts": all}}, nil
}

func active(r *rules.AlertingRule) []apiAlert {
	all := []apiAlert{}
	for _, a := range r.ActiveAlerts() {
		one := apiAlert{a.Labels, a.Annotations, a.State.String(), &a.ActiveAt, nil, strconv.FormatFloat(a.Value, 'e', -1, 64)}
		if !a.KeepFiringSince.IsZero() {
			one.KeepFiringSince = &a.KeepFiringSince
		}
		all = append(all, one)
	}
	return all
}

// rules gives the groups of rules that are evaluated.
func (db *DB) rules() []*rules.Group {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.ruled == nil {
		return nil
	}
	return db.ruled.manager.RuleGroups()
}
