package alertapi_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// alertmanagerVariable names the Alertmanager that the tests compare with; not
// set: the one that is installed.
const alertmanagerVariable = "VIGIL_ALERTMANAGER"

// alertmanager gives the program that the tests compare with.
func alertmanager(t testing.TB) string {
	t.Helper()
	if program := os.Getenv(alertmanagerVariable); program != "" {
		return program
	}
	return testkit.Require(t, "prometheus-alertmanager")
}

const answersConfig = `
route:
  receiver: a
  group_by: [alertname]
  group_wait: 100ms
  group_interval: 300ms
  routes:
  - {receiver: b, matchers: ['alertname="Muted"'], mute_time_intervals: [never, always]}
  - {receiver: b, matchers: ['alertname="Inactive"'], active_time_intervals: [never, lately]}
  - {receiver: b, matchers: ['alertname="Down"'], continue: true}
  - {receiver: a, matchers: ['alertname=~"Down|Slow"']}
inhibit_rules:
- {source_matchers: ['severity="critical"'], target_matchers: ['severity="warning"'], equal: [node]}
time_intervals:
- {name: always, time_intervals: [{times: [{start_time: "00:00", end_time: "24:00"}]}]}
- {name: never, time_intervals: [{years: ["2001"]}]}
- {name: lately, time_intervals: [{years: ["2002"]}]}
receivers:
- name: a
  webhook_configs: [{url: HOOK}]
- name: b
  webhook_configs: [{url: HOOK}]
`

// TestAnswers asks a real Alertmanager and Vigil the same, of the same alerts and
// silences with the same configuration, through every method of API v2. Whatever
// Alertmanager's answer has, Vigil's has, with the same value.
func TestAnswers(t *testing.T) {
	program := alertmanager(t)
	theirs, ours := newHook(t), newHook(t)
	manager := startAlertmanager(t, program, strings.ReplaceAll(answersConfig, "HOOK", theirs.URL))
	imported, err := route.Import([]byte(strings.ReplaceAll(answersConfig, "HOOK", ours.URL)), "")
	must(t, err)
	both := pair{theirs: manager, ours: newWorld(t, t.TempDir(), string(imported.Config)).URL}
	begin := time.Now().Truncate(time.Millisecond)
	alert := func(starts, ends time.Duration, words string) any {
		labels := map[string]string{}
		for word := range strings.FieldsSeq(words) {
			name, value, _ := strings.Cut(word, "=")
			labels[name] = value
		}
		return map[string]any{
			"labels": labels, "annotations": map[string]string{"summary": words}, "generatorURL": "http://prometheus.example/graph",
			"startsAt": begin.Add(starts).Format(time.RFC3339Nano), "endsAt": begin.Add(ends).Format(time.RFC3339Nano),
		}
	}
	both.send(t, http.MethodPost, "/api/v2/alerts", []any{
		alert(0, time.Hour, "alertname=Down severity=critical node=n1"), alert(0, time.Hour, "alertname=Slow severity=warning node=n1"),
		alert(0, time.Hour, "alertname=Slow severity=warning node=n2"), alert(0, time.Hour, "alertname=Slow severity=info node=n3"),
		alert(0, time.Hour, "alertname=Muted"), alert(0, time.Hour, "alertname=Inactive"), alert(-time.Hour, -time.Minute, "alertname=Over"),
	})
	silence := func(starts, ends time.Duration, name, value string, isRegex bool) any {
		return map[string]any{
			"matchers": []any{map[string]any{"name": name, "value": value, "isRegex": isRegex, "isEqual": true}}, "createdBy": "ada",
			"comment": "known", "startsAt": begin.Add(starts).Format(time.RFC3339Nano), "endsAt": begin.Add(ends).Format(time.RFC3339Nano),
		}
	}
	holds := both.silence(t, silence(0, time.Hour, "node", "n2", false))
	both.silence(t, silence(0, 30*time.Minute, "node", "m.*", true))
	both.silence(t, silence(10*time.Minute, time.Hour, "node", "n9", false))
	both.silence(t, silence(5*time.Minute, 2*time.Hour, "job", "j", false))
	ended := both.silence(t, silence(0, time.Hour, "node", "n4", false))
	both.each(t, http.MethodDelete, "/api/v2/silence/"+ended[0], "/api/v2/silence/"+ended[1])
	for _, query := range queries(both.present(t)) {
		both.each(t, http.MethodGet, query, query)
	}
	both.each(t, http.MethodGet, "/api/v2/silence/"+holds[0], "/api/v2/silence/"+holds[1])
	both.each(t, http.MethodGet, "/api/v2/silence/"+ended[0], "/api/v2/silence/"+ended[1])
	both.each(t, http.MethodDelete, "/api/v2/silence/"+ended[0], "/api/v2/silence/"+ended[1]) // twice
	for name, body := range refused(begin) {
		both.send(t, http.MethodPost, "/api/v2/"+name, body)
	}
}

// present tells whether Alertmanager knows time intervals and states as
// parameters, which it does since 0.28 and 0.32.
func (p pair) present(t *testing.T) bool {
	_, text := call(t, http.MethodGet, p.theirs+"/api/v2/silences", nil)
	return strings.Contains(text, `"annotations"`)
}

// queries are what is asked; of an Alertmanager of today more.
func queries(present bool) []string {
	all := []string{"status", "receivers", "silence/3f0e6b4e-4b0c-4b5e-9a39-0d6f0f6f1a11", "silence/none"}
	for _, of := range []string{"alerts", "alerts/groups"} {
		for _, query := range []string{
			"", "active=false", "silenced=false", "inhibited=false", "active=false&silenced=false", "active=false&inhibited=false",
			"active=false&silenced=false&inhibited=false", "filter=alertname%3D%22Slow%22", "filter=node%3D~%22n.*%22&filter=severity!%3D%22info%22",
			"filter=node%3D%22%22", "receiver=a", "receiver=a%7Cb", "receiver=none", "receiver=%28", "filter=a%3D~%22%28%22", "active=perhaps",
		} {
			all = append(all, of+"?"+query)
		}
	}
	for _, query := range []string{"", "filter=node%3D%22n2%22", "filter=node%3D~%22n.*%22", "filter=node%3D~%22m.*%22", "filter=other%3D%22n2%22", "filter=%28"} {
		all = append(all, "silences?"+query)
	}
	all = append(all, "alerts?unprocessed=false")
	if present {
		all = append(all, "alerts/groups?muted=false", "silences?expired=false", "silences?active=false&pending=false", "silences?expired=perhaps",
			"receivers?receiver_matchers=owner%3D%22x%22", "alerts?receiver_matchers=owner%3D%22x%22", "alerts/groups?receiver_matchers=%28",
			"receivers?receiver_matchers=name%3D%22a%22", "alerts?receiver_matchers=name%3D~%22b%7Cc%22", "alerts/groups?receiver_matchers=name%3D%22a%22")
	}
	for i := range all {
		all[i] = "/api/v2/" + all[i]
	}
	return all
}

// refused are bodies that neither takes.
func refused(begin time.Time) map[string]any {
	at := func(d time.Duration) string { return begin.Add(d).Format(time.RFC3339Nano) }
	silence := func(starts, ends time.Duration, author string, matchers ...any) map[string]any {
		return map[string]any{"createdBy": author, "comment": "c", "startsAt": at(starts), "endsAt": at(ends), "matchers": matchers}
	}
	node := map[string]any{"name": "node", "value": "n", "isRegex": false}
	unknown := silence(0, time.Hour, "ada", node)
	unknown["id"] = "3f0e6b4e-4b0c-4b5e-9a39-0d6f0f6f1a11"
	return map[string]any{
		"alerts":      []any{map[string]any{"labels": map[string]string{}}},
		"alerts?":     []any{map[string]any{"labels": map[string]string{"a": "b"}, "startsAt": at(0), "endsAt": at(-time.Hour)}},
		"silences":    silence(0, time.Hour, "ada"),
		"silences?":   silence(0, -time.Hour, "ada", node),
		"silences?a":  silence(-2*time.Hour, -time.Hour, "ada", node),
		"silences?b":  silence(0, time.Hour, "ada", map[string]any{"name": "node", "value": "", "isRegex": false}),
		"silences?c":  silence(0, time.Hour, "ada", map[string]any{"name": "node", "value": "(", "isRegex": true}),
		"silences?d":  unknown,
		"alerts?none": "text",
	}
}

// pair is two that answer the same.
type pair struct{ theirs, ours string }

// silence makes a silence and gives its two ids.
func (p pair) silence(t *testing.T, body any) (ids [2]string) {
	t.Helper()
	for n, url := range []string{p.theirs, p.ours} {
		status, text := call(t, http.MethodPost, url+"/api/v2/silences", body)
		var answer struct {
			ID string `json:"silenceID"`
		}
		if err := json.Unmarshal([]byte(text), &answer); err != nil || status != http.StatusOK {
			t.Fatalf("POST silence to %s: %d %s", url, status, text)
		}
		ids[n] = answer.ID
	}
	return ids
}

// send sends both the same and wants answers of one class.
func (p pair) send(t *testing.T, method, path string, body any) {
	t.Helper()
	theirs, theirText := call(t, method, p.theirs+path, body)
	ours, ourText := call(t, method, p.ours+path, body)
	if theirs/100 != ours/100 || (theirs == http.StatusNotFound) != (ours == http.StatusNotFound) {
		t.Errorf("%s %s: Alertmanager %d %s, Vigil %d %s", method, path, theirs, theirText, ours, ourText)
	}
}

// each asks both, until their answers are the same: what Alertmanager knows of
// groups it knows when it has looked at them.
func (p pair) each(t *testing.T, method, theirPath, ourPath string) {
	t.Helper()
	var wrong string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		theirs, theirText := call(t, method, p.theirs+theirPath, nil)
		ours, ourText := call(t, method, p.ours+ourPath, nil)
		wrong = ""
		switch {
		case theirs >= 400:
			if ours < 400 {
				wrong = fmt.Sprintf("Alertmanager refuses with %d, Vigil answers %d", theirs, ours)
			}
		case theirs != ours:
			wrong = fmt.Sprintf("Alertmanager answers %d, Vigil %d: %s", theirs, ours, ourText)
		case theirText != "":
			var their, our any
			must(t, json.Unmarshal([]byte(theirText), &their))
			must(t, json.Unmarshal([]byte(ourText), &our))
			if wrong = lacks("", "", their, our); wrong != "" {
				wrong += fmt.Sprintf("\nAlertmanager: %.600s\nVigil: %.600s", theirText, ourText)
			}
		}
		if wrong == "" || method != http.MethodGet {
			break
		}
	}
	if wrong != "" {
		t.Errorf("%s %s: %s", method, theirPath, wrong)
	}
}

// lacks gives the first thing that one JSON value has and another has not. What
// cannot be the same in two processes must be there all the same.
func lacks(where, key string, their, our any) string {
	switch their := their.(type) {
	case map[string]any:
		our, ok := our.(map[string]any)
		if !ok {
			return where + " is no object"
		}
		for _, name := range slices.Sorted(maps.Keys(their)) {
			if _, there := our[name]; !there {
				return where + "." + name + " is missing"
			}
			if _, knows := their["mutedBy"]; name == "state" && !knows && fmt.Sprint(our["mutedBy"]) != "[]" {
				continue // an Alertmanager before 0.28 does not tell of time intervals
			}
			if wrong := lacks(where+"."+name, name, their[name], our[name]); wrong != "" {
				return wrong
			}
		}
		return ""
	case []any:
		our, ok := our.([]any)
		if !ok || len(their) != len(our) {
			return fmt.Sprintf("%s: Alertmanager has %d, Vigil %d", where, len(their), len(our))
		}
		if key == "alerts" || key == "receivers" { // these have no order
			sorted(their)
			sorted(our)
		}
		for n := range their {
			if wrong := lacks(fmt.Sprintf("%s[%d]", where, n), key, their[n], our[n]); wrong != "" {
				return wrong
			}
		}
		return ""
	}
	return differs(where, key, their, our)
}

// sorted orders what has no order in Alertmanager's answer.
func sorted(all []any) {
	key := func(v any) string {
		one, _ := v.(map[string]any)
		return fmt.Sprint(one["fingerprint"], one["name"])
	}
	slices.SortFunc(all, func(a, b any) int { return strings.Compare(key(a), key(b)) })
}

// differs compares two simple values.
func differs(where, key string, their, our any) string {
	switch key {
	case "id", "silencedBy", "inhibitedBy", "original", "version", "revision", "branch", "buildUser", "buildDate", "goVersion":
		if fmt.Sprintf("%T", their) == fmt.Sprintf("%T", our) {
			return "" // each has its own
		}
	case "updatedAt", "uptime":
		if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(our)); err == nil {
			return ""
		}
	case "startsAt", "endsAt":
		a, err := time.Parse(time.RFC3339Nano, fmt.Sprint(their))
		b, wrong := time.Parse(time.RFC3339Nano, fmt.Sprint(our))
		// A silence that is ended or begins in the past has the time of its own.
		if err == nil && wrong == nil && a.Sub(b).Abs() < 2*time.Second {
			return ""
		}
	}
	if their == our {
		return ""
	}
	return fmt.Sprintf("%s: Alertmanager has %v, Vigil %v", where, their, our)
}

// TestMutedBy: a look at groups tells which time intervals keep them from being
// told, as the present Alertmanager's does.
func TestMutedBy(t *testing.T) {
	imported, err := route.Import([]byte(strings.ReplaceAll(answersConfig, "HOOK", newHook(t).URL)), "")
	must(t, err)
	w := newWorld(t, t.TempDir(), string(imported.Config))
	for _, name := range []string{"Muted", "Inactive", "Other"} {
		status, text := call(t, http.MethodPost, w.URL+"/api/v2/alerts", []any{map[string]any{"labels": map[string]string{"alertname": name}}})
		if status != http.StatusOK {
			t.Fatal(text)
		}
	}
	for path, want := range map[string]string{
		"/api/v2/alerts/groups":                         "Inactive suppressed [never lately]; Muted suppressed [always]; Other active []",
		"/api/v2/alerts/groups?muted=false":             "Other active []",
		"/api/v2/alerts?filter=alertname%3D%22Muted%22": "Muted active []",
	} {
		status, text := call(t, http.MethodGet, w.URL+path, nil)
		type alert struct {
			Labels map[string]string `json:"labels"`
			Status struct {
				State   string   `json:"state"`
				MutedBy []string `json:"mutedBy"`
			} `json:"status"`
			Alerts []json.RawMessage `json:"alerts"`
		}
		var shown []alert
		if err := json.Unmarshal([]byte(text), &shown); err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, status, text)
		}
		var got []string
		for _, a := range shown {
			for _, inner := range a.Alerts {
				a.Alerts = nil
				must(t, json.Unmarshal(inner, &a))
			}
			got = append(got, fmt.Sprintf("%s %s %v", a.Labels["alertname"], a.Status.State, a.Status.MutedBy))
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("%s: %q, want %q", path, strings.Join(got, "; "), want)
		}
	}
}
