package route

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

func read(t testing.TB, text string) Config {
	t.Helper()
	var c Config
	if err := conf.Decode("route.yaml", []byte(text), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

const example = `
receiver: root
group_wait: 5s
routes:
- matchers: ['team="vision"']
  group_by: [team, run]
  repeat_interval: 1h
  routes:
  - {receiver: pager, matchers: ['severity="critical"'], continue: true, group_interval: 1m}
  - {receivers: [mail, chat], matchers: ['severity=~"critical|warning"']}
- {receiver: nobody, match: {team: play}}
- {receiver: text, match_re: {team: text.*}, group_by: ['...'], continue: true}
- {matchers: ['run!=""'], active_time_intervals: [day], mute_time_intervals: [lunch]}
`

func TestMatch(t *testing.T) {
	tree, err := New(read(t, example))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		labels map[string]string
		want   []string // receivers and group
	}{
		{map[string]string{}, []string{"root {}:{}"}},
		{map[string]string{"team": "vision", "severity": "critical", "run": "r"}, []string{
			`pager {}/{team="vision"}/{severity="critical"}:{run="r", team="vision"}`,
			`mail chat {}/{team="vision"}/{severity=~"critical|warning"}:{run="r", team="vision"}`}},
		{map[string]string{"team": "vision", "severity": "info"}, []string{`root {}/{team="vision"}:{team="vision"}`}},
		{map[string]string{"team": "play", "run": "r"}, []string{` {}/{team="play"}:{run="r", team="play"}`}},
		{map[string]string{"team": "text-2", "run": "r"}, []string{
			`text {}/{team=~"^(?:text.*)$"}:{run="r", team="text-2"}`, `root {}/{run!=""}:{run="r", team="text-2"}`}},
		{map[string]string{"incident": "i", "run": "r"}, []string{`root {}/{run!=""}:{incident="i"}`}},
	} {
		var got []string
		for _, r := range tree.Match(test.labels) {
			got = append(got, strings.Join(r.Receivers, " ")+" "+r.GroupKey(r.GroupLabels(test.labels)))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", test.labels, diff)
		}
		var chosen []string
		for _, step := range tree.Explain(test.labels) {
			if step.Chosen {
				chosen = append(chosen, strings.Join(step.Route.Receivers, " ")+" "+step.Route.GroupKey(step.Route.GroupLabels(test.labels)))
			}
			if step.Why == "" {
				t.Errorf("%v: the step at %s has no reason", test.labels, step.Route.ID)
			}
		}
		if diff := cmp.Diff(got, chosen); diff != "" {
			t.Errorf("%v: explained otherwise than matched (-matched +explained):\n%s", test.labels, diff)
		}
	}
}

func TestTimesAreInherited(t *testing.T) {
	tree, err := New(read(t, example))
	if err != nil {
		t.Fatal(err)
	}
	r := tree.Match(map[string]string{"team": "vision", "severity": "critical"})
	type times struct {
		Wait, Interval, Repeat time.Duration
		Urgent                 bool
	}
	of := func(r *Route) times { return times{r.Wait, r.Interval, r.Repeat, r.Urgent} }
	if diff := cmp.Diff(times{5 * time.Second, time.Minute, time.Hour, false}, of(r[0])); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(times{5 * time.Second, 30 * time.Second, time.Hour, true}, of(r[1])); diff != "" {
		t.Error(diff)
	}
	if tree.ByID(r[0].ID) != r[0] || tree.ByID("none") != nil {
		t.Error("a route is not found by its id")
	}
	twins, err := New(read(t, "receiver: a\nroutes: [{matchers: [a=b], continue: true}, {matchers: [a=b]}]"))
	if err != nil {
		t.Fatal(err)
	}
	if both := twins.Match(map[string]string{"a": "b"}); both[0].ID == both[1].ID || both[0].Key != both[1].Key {
		t.Error("two routes of one key want two ids")
	}
}

func TestConfigRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"matchers: ['a=~\"(\"']":          "read matcher",
		"receiver: a\nreceivers: [b]":     "are both given",
		"group_interval: 0s":              "want more than 0",
		"group_wait: -1s":                 "want more than 0",
		"group_by: ['...', a]":            `has "..." and others`,
		"group_by: [a, a]":                `names "a" twice`,
		"match_re: {a: (}":                "read matcher of a",
		"routes: [{repeat_interval: 0s}]": "routes[0].repeat_interval: is 0s",
		"recever: a":                      `did you mean "receiver"?`,
	} {
		var c Config
		err := conf.Decode("f", []byte(text), &c)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestIntervals(t *testing.T) {
	var c struct {
		Times []IntervalConfig `yaml:"times"`
	}
	text := `
times:
- {name: night, time_intervals: [{times: [{start_time: '22:00', end_time: '24:00'}], location: Asia/Tokyo}]}
- {name: weekend, time_intervals: [{weekdays: ['saturday', 'sunday']}]}
`
	if err := conf.Decode("f", []byte(text), &c); err != nil {
		t.Fatal(err)
	}
	in, err := NewIntervals(c.Times)
	if err != nil {
		t.Fatal(err)
	}
	tokyo := time.Date(2026, 3, 6, 13, 30, 0, 0, time.UTC) // Friday, 22:30 there
	for name, test := range map[string]struct {
		route Route
		at    time.Time
		want  bool
	}{
		"at night":      {Route{Mute: []string{"night"}}, tokyo, true},
		"before":        {Route{Mute: []string{"night"}}, tokyo.Add(-time.Hour), false},
		"active":        {Route{Active: []string{"night"}}, tokyo, false},
		"not active":    {Route{Active: []string{"weekend"}}, tokyo, true},
		"weekend":       {Route{Active: []string{"weekend"}}, tokyo.Add(24 * time.Hour), false},
		"both":          {Route{Active: []string{"night"}, Mute: []string{"night"}}, tokyo, true},
		"no times said": {Route{}, tokyo, false},
	} {
		if got := in.Muted(&test.route, test.at); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, bad := range []string{
		"times: [{name: x, time_intervals: [{times: [{start_time: '25:00', end_time: '26:00'}]}]}]",
		"times: [{name: x, time_intervals: [{weekday: [monday]}]}]", "times: [{time_intervals: []}]",
		"times: [{name: x, time_intervals: [{location: Nowhere/None}]}]",
	} {
		if err := conf.Decode("f", []byte(bad), &c); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if _, err := NewIntervals(append(c.Times[:0:0], IntervalConfig{Name: "x", TimeIntervals: []any{}}, IntervalConfig{Name: "x", TimeIntervals: []any{}})); err == nil {
		t.Error("one name twice was taken")
	}
}

func TestInhibitionLikeness(t *testing.T) {
	rule, err := NewInhibition(InhibitConfig{SourceMatch: map[string]string{"a": "b"}, TargetMatchRE: map[string]string{"c": "d|e"}, Equal: []string{"run", "node"}})
	if err != nil {
		t.Fatal(err)
	}
	if rule.Likeness(map[string]string{"run": "r"}) != rule.Likeness(map[string]string{"run": "r", "node": "", "x": "y"}) {
		t.Error("a missing label is not like an empty one")
	}
	if rule.Likeness(map[string]string{"run": "r"}) == rule.Likeness(map[string]string{"run": "s"}) {
		t.Error("two runs are alike")
	}
	if !rule.Target.Match(map[string]string{"c": "e"}) || rule.Target.Match(map[string]string{"c": "ee"}) {
		t.Error("an expression does not match the whole value")
	}
	if _, err := NewInhibition(InhibitConfig{TargetMatchers: []string{"="}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a bad matcher: %v", err)
	}
}

func TestImportEmail(t *testing.T) {
	imported, err := Import([]byte(`
global: {smtp_smarthost: 'mail.example:587', smtp_from: v@example, smtp_auth_username: u, smtp_auth_password_file: /p, smtp_require_tls: false}
route: {receiver: m, group_wait: 1y, surprise: 1}
receivers: [{name: m, email_configs: [{to: 'a@x, b@x', html: h}]}, {name: p, pagerduty_configs: [{service_key: k}]}]
surprise: 1
`), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"host: mail.example", "port: 587", "- b@x", "password: ${file:/p}", "tls: none", "group_wait: 8760h0m0s", "not_resolved:\n    - m"} {
		if !strings.Contains(string(imported.Config), want) {
			t.Errorf("no %q in\n%s", want, imported.Config)
		}
	}
	for _, want := range []string{"receiver m.email.html", "service_key", "route.surprise", "surprise: Vigil has no such key", "receiver p: nothing"} {
		if !slices.ContainsFunc(imported.Left, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("%q is not told as left: %q", want, imported.Left)
		}
	}
	for _, bad := range []string{"{", "receivers: []", "route: []"} {
		if _, err := Import([]byte(bad), ""); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestImportWords: the texts of receivers come with the files of templates that
// they refer to, and what cannot be taken is told.
func TestImportWords(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ours.tmpl"), []byte(`{{ define "ours" }}{{ .CommonLabels.run }}{{ end }}`), 0o600); err != nil {
		t.Fatal(err)
	}
	imported, err := Import([]byte(`
templates: ['*.tmpl', /nowhere/*.tmpl]
route: {receiver: all}
receivers:
- name: all
  slack_configs: [{api_url: http://s, title: '{{ template "ours" . }}', text: x, color: red}]
  pagerduty_configs: [{routing_key: k, description: '{{ .Status }}'}]
  email_configs: [{smarthost: 'h:25', from: f@x, to: t@x, text: plain, headers: {Subject: 'S {{ .Status }}', X-Other: y}}]
`), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"templates:\n    - " + dir + "/*.tmpl\n", `title: '{{ template "ours" . }}'`, "text: x", "summary: '{{ .Status }}'", "subject: S {{ .Status }}", "text: plain",
	} {
		if !strings.Contains(string(imported.Config), want) {
			t.Errorf("no %q in\n%s", want, imported.Config)
		}
	}
	for _, want := range []string{"/nowhere/*.tmpl", "slack.color", "headers.X-Other"} {
		if !slices.ContainsFunc(imported.Left, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("%q is not told as left: %q", want, imported.Left)
		}
	}
}

// FuzzImport: whatever a file holds, what is written is configuration that
// Vigil reads or tells of.
func FuzzImport(f *testing.F) {
	f.Add([]byte("route: {receiver: a, routes: [{match: {a: b}}]}\nreceivers: [{name: a, webhook_configs: [{url: http://h}]}]"))
	f.Add([]byte("route: {group_wait: 1w, routes: 7}\nreceivers: {}\ntime_intervals: [1]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		imported, err := Import(text, t.TempDir())
		if err == nil && len(imported.Config) == 0 {
			t.Error("nothing was written")
		}
	})
}
