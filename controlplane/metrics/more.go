package metrics

import (
	"net/http"
	"runtime"
	"strconv"

	"github.com/prometheus/prometheus/rules"

	"github.com/vigil-ml/vigil/internal/version"
)

// metadata answers /api/v1/metadata with the dictionary.
func (db *DB) metadata(r *http.Request) (answer, error) {
	limit, err := limitParameter(r)
	if err != nil {
		return answer{}, err
	}
	type entry struct {
		Type string `json:"type"`
		Help string `json:"help"`
		Unit string `json:"unit"`
	}
	all := map[string][]entry{}
	for name, def := range db.dictionary {
		if want := r.Form.Get("metric"); want != "" && want != name {
			continue
		}
		if limit > 0 && len(all) == limit {
			break
		}
		all[name] = []entry{{string(def.Type), def.Help, def.Unit}}
	}
	return answer{data: all}, nil
}

// buildInfo answers /api/v1/status/buildinfo. The version is that of the
// Prometheus whose engine and API this is: clients choose by it what they ask.
func (db *DB) buildInfo(*http.Request) (answer, error) {
	return answer{data: map[string]string{
		"version": prometheusVersion, "revision": version.String(), "branch": "", "buildUser": "vigil", "buildDate": "",
		"goVersion": runtime.Version(),
	}}, nil
}

// prometheusVersion is that of the packages that answer queries; v0.316 is 3.16.
const prometheusVersion = "3.16.0"

// exemplars answers /api/v1/query_exemplars: the store keeps none.
func (db *DB) exemplars(*http.Request) (answer, error) { return answer{data: []string{}}, nil }

// ruleGroups answers /api/v1/rules.
func (db *DB) ruleGroups(*http.Request) (answer, error) {
	groups := []map[string]any{}
	for _, g := range db.rules() {
		list := []map[string]any{}
		for _, r := range g.Rules() {
			one := map[string]any{
				"name": r.Name(), "query": r.Query().String(), "labels": r.Labels(), "health": r.Health(),
				"lastEvaluation": r.GetEvaluationTimestamp(), "evaluationTime": r.GetEvaluationDuration().Seconds(), "type": "recording",
			}
			if err := r.LastError(); err != nil {
				one["lastError"] = err.Error()
			}
			if a, ok := r.(*rules.AlertingRule); ok {
				one["type"], one["state"], one["duration"] = "alerting", a.State().String(), a.HoldDuration().Seconds()
				one["annotations"], one["alerts"] = a.Annotations(), active(a)
			}
			list = append(list, one)
		}
		groups = append(groups, map[string]any{
			"name": g.Name(), "file": g.File(), "rules": list, "interval": g.Interval().Seconds(), "limit": g.Limit(),
			"evaluationTime": g.GetEvaluationTime().Seconds(), "lastEvaluation": g.GetLastEvaluation(),
		})
	}
	return answer{data: map[string]any{"groups": groups}}, nil
}

// alerts answers /api/v1/alerts.
func (db *DB) alerts(*http.Request) (answer, error) {
	all := []map[string]any{}
	for _, g := range db.rules() {
		for _, a := range g.AlertingRules() {
			all = append(all, active(a)...)
		}
	}
	return answer{data: map[string]any{"alerts": all}}, nil
}

func active(r *rules.AlertingRule) []map[string]any {
	all := []map[string]any{}
	for _, a := range r.ActiveAlerts() {
		all = append(all, map[string]any{
			"labels": a.Labels, "annotations": a.Annotations, "state": a.State.String(), "activeAt": a.ActiveAt,
			"value": strconv.FormatFloat(a.Value, 'e', -1, 64),
		})
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
