package metrics

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
)

const peerRules = `groups:
- name: recorded
  interval: 1s
  limit: 10
  rules:
  - {record: "job:load:sum", expr: "sum by (job) (load)", labels: {kind: sum}}
  - {record: "job:load:double", expr: "job:load:sum * 2"}
- name: told
  interval: 1s
  rules:
  - alert: LoadHigh
    expr: load > 3
    labels: {severity: critical, team: "{{ $labels.job }}s"}
    annotations: {summary: "load of {{ $labels.job }} is {{ $value | humanize }}", place: "{{ $externalLabels.site }}"}
  - {alert: LoadWaits, expr: load > 4, for: 10m, keep_firing_for: 1m}
  - {alert: Never, expr: load > 100}
  - {alert: Broken, expr: "load * on() load"}
`

// started runs the rules of files until the test ends.
func started(t *testing.T, db *DB) {
	t.Helper()
	rules, err := db.NewRules(RuleDeps{ExternalURL: "http://vigil", Metrics: prometheus.NewRegistry(), Log: testkit.Logger(t),
		Tell: func(context.Context, []Alert) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	evaluate(t, rules)
}

func evaluate(t *testing.T, rules *Rules) {
	t.Helper()
	group := life.NewGroup(context.WithoutCancel(t.Context()))
	group.Go("rules", rules.Run)
	t.Cleanup(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// timeless leaves out when something was evaluated and how long it took, puts
// alerts in an order, and leaves out what Prometheus 2 did: a recording rule's
// empty labels, and groups of which no rule is wanted.
func timeless(data any) any {
	switch v := data.(type) {
	case map[string]any:
		for _, name := range []string{"lastEvaluation", "evaluationTime", "activeAt", "lastError"} {
			if _, there := v[name]; there {
				v[name] = "a time"
			}
		}
		for key := range v {
			v[key] = timeless(v[key])
		}
		if empty, ok := v["labels"].(map[string]any); ok && len(empty) == 0 && v["type"] == "recording" {
			delete(v, "labels")
		}
		if alerts, ok := v["alerts"].([]any); ok {
			slices.SortFunc(alerts, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
		if groups, ok := v["groups"].([]any); ok {
			v["groups"] = slices.DeleteFunc(groups, func(g any) bool { return fmt.Sprint(g.(map[string]any)["rules"]) == "[]" })
		}
	case []any:
		for i := range v {
			v[i] = timeless(v[i])
		}
	}
	return data
}

// TestSameRulesAsPrometheus has a real Prometheus and a control plane's store
// evaluate the same file over the same samples: what they say of the rules and
// the alerts, and what they recorded, is the same.
func TestSameRulesAsPrometheus(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(peerRules), 0o600); err != nil {
		t.Fatal(err)
	}
	real := startPeer(t, "global: {evaluation_interval: 1s, external_labels: {site: north}}\nrule_files: ["+file+"]\n")
	db := openLive(t, func(c *Config) {
		c.RuleFiles, c.ExternalLabels = []string{file}, map[string]string{"site": "north"}
	})
	ours := serve(t, db)
	var series []prompb.TimeSeries
	for job, value := range map[string]float64{"a": 2, "b": 5, "c": 5} {
		one := prompb.TimeSeries{Labels: prompb.FromLabels(labels.FromStrings("__name__", "load", "job", job), nil)}
		for at := time.Now().Add(-time.Minute); at.Before(time.Now().Add(5 * time.Minute)); at = at.Add(10 * time.Second) {
			one.Samples = append(one.Samples, prompb.Sample{Timestamp: at.UnixMilli(), Value: value})
		}
		series = append(series, one)
	}
	push(t, real.url, series)
	push(t, ours, series)
	started(t, db)
	for _, address := range []string{real.url, ours} {
		testkit.Eventually(t, "the rules of "+address, func() bool {
			text := page(t, address+"/api/v1/rules")
			return strings.Count(text, `"firing"`) == 3 && strings.Count(text, `"pending"`) == 3 && strings.Contains(text, `"err"`)
		})
		testkit.Eventually(t, "what was recorded", func() bool { return strings.Contains(page(t, address+"/api/v1/query?query=job:load:double"), `"10"`) })
	}
	for _, kind := range []string{"", "alert", "record"} {
		ask := func(address string) any {
			return timeless(askPeer(t, address, "rules", url.Values{"type": {kind}}, false).Data)
		}
		if diff := gocmp.Diff(ask(real.url), ask(ours)); diff != "" {
			t.Errorf("rules of type %q (-Prometheus +Vigil):\n%s", kind, diff)
		}
	}
	// Parameters that Debian's Prometheus does not have yet.
	for query, want := range map[string]int{"rule_name[]=LoadHigh": 1, "rule_group[]=told": 4, "rule_group[]=told&rule_name[]=Never": 1, "file[]=" + file: 6, "file[]=none": 0, "type=record": 2} {
		text := page(t, ours+"/api/v1/rules?"+query)
		if n := strings.Count(text, `"health"`); n != want {
			t.Errorf("rules?%s has %d rules, want %d", query, n, want)
		}
	}
	if text := page(t, ours+"/api/v1/rules?exclude_alerts=true"); strings.Contains(text, `"activeAt"`) {
		t.Errorf("without alerts: %s", text)
	}
	want, got := askPeer(t, real.url, "alerts", nil, false), askPeer(t, ours, "alerts", nil, false)
	if diff := gocmp.Diff(timeless(want.Data), timeless(got.Data)); diff != "" {
		t.Errorf("alerts (-Prometheus +Vigil):\n%s", diff)
	}
}

// TestRuleFilesAsPromtoolJudgesThem holds that a file is taken when promtool
// takes it, and only then; that what docs/rules has passes its own unit tests
// there, and is taken here.
func TestRuleFilesAsPromtoolJudgesThem(t *testing.T) {
	program := testkit.Require(t, "promtool")
	examples, err := filepath.Abs("../../docs/rules/vigil.yml")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), program, "test", "rules", filepath.Join(filepath.Dir(examples), "vigil_test.yml")).CombinedOutput(); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
	text, err := os.ReadFile(examples)
	if err != nil {
		t.Fatal(err)
	}
	known := openLive(t, nil).dictionary
	for _, name := range regexp.MustCompile(`(?:^|[( ])(vigil_[a-z0-9_]+)[{\[)]`).FindAllStringSubmatch(string(text), -1) {
		if _, there := known[name[1]]; !there {
			t.Errorf("docs/rules/vigil.yml asks for %s, which there is not", name[1])
		}
	}
	rule := func(text string) string { return "groups: [{name: g, rules: [" + text + "]}]" }
	for what, text := range map[string]string{
		"the examples":              string(text),
		"nothing":                   "",
		"no rules":                  "groups: []",
		"one rule":                  rule("{record: x, expr: 1}"),
		"a broken expression":       rule("{record: x, expr: 'sum('}"),
		"no expression":             rule("{record: x}"),
		"record and alert":          rule("{record: x, alert: y, expr: 1}"),
		"neither":                   rule("{expr: 1}"),
		"for in a recording rule":   rule("{record: x, expr: 1, for: 1m}"),
		"a broken template":         rule("{alert: x, expr: 1, annotations: {a: '{{ $value'}}"),
		"an unknown function":       rule("{alert: x, expr: 1, annotations: {a: '{{ nope }}'}}"),
		"__name__ as a label":       rule("{alert: x, expr: 1, labels: {__name__: c}}"),
		"an unknown key":            rule("{record: x, expr: 1, nope: 1}"),
		"a group twice":             "groups: [{name: g}, {name: g}]",
		"a group without a name":    "groups: [{rules: []}]",
		"an interval that is none":  "groups: [{name: g, interval: soon}]",
		"a list instead of groups":  "[a, b]",
		"not YAML":                  "groups: [",
		"a rule for a duration":     rule("{alert: x, expr: up == 0, for: 5m, keep_firing_for: 10m}"),
		"a group with an odd limit": "groups: [{name: g, limit: many}]",
	} {
		file := filepath.Join(t.TempDir(), "rules.yml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, judged := exec.CommandContext(t.Context(), program, "check", "rules", file).CombinedOutput()
		db := openLive(t, func(c *Config) { c.RuleFiles = []string{file} })
		made, err := db.NewRules(RuleDeps{ExternalURL: "http://vigil", Metrics: prometheus.NewRegistry(), Log: testkit.Logger(t), Tell: func(context.Context, []Alert) error { return nil }})
		if err == nil {
			evaluate(t, made)
		}
		if (judged == nil) != (err == nil) {
			t.Errorf("%s: promtool says %v %s, Vigil says %v", what, judged, out, err)
		}
	}
}
