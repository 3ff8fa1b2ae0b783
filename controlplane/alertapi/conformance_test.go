package alertapi_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// play is one sequence of alerts with a configuration in Alertmanager's words.
// HOOK stands for the webhook's address.
type play struct {
	name   string
	config string
	steps  []step
	old    time.Duration // how long before the play the alerts began
}

// step happens so long after the step before.
type step struct {
	after time.Duration
	alert string // "name fires|ends label=value ..." or "silence|unsilence matcher"
}

const ms = time.Millisecond

// receivers tell the one webhook; the root groups by alertname.
const receivers = `
receivers:
- name: a
  webhook_configs: [{url: HOOK, send_resolved: true}]
- name: b
  webhook_configs: [{url: HOOK, send_resolved: true}]
- name: quiet
  webhook_configs: [{url: HOOK, send_resolved: false}]
`

func plays() []play {
	times := "group_wait: 200ms, group_interval: 1s, repeat_interval: 1h"
	return []play{
		{old: time.Minute, name: "what began long ago does not wait", config: "route: {receiver: a, group_by: [alertname], group_wait: 5s, group_interval: 1s}" + receivers, steps: []step{
			{0, "X fires i=1"}, {200 * ms, "X fires i=2"}, {1500 * ms, ""},
		}},
		{name: "a group waits for company", config: "route: {receiver: a, group_by: [alertname], " + times + "}" + receivers, steps: []step{
			{0, "X fires i=1"}, {50 * ms, "X fires i=2"}, {0, "Y fires i=1"}, {500 * ms, "X fires i=3"}, {1500 * ms, ""},
		}},
		{name: "no labels to group by", config: "route: {receiver: a, " + times + "}" + receivers, steps: []step{
			{0, "X fires i=1"}, {50 * ms, "Y fires i=2"}, {1500 * ms, ""},
		}},
		{name: "every alert by itself", config: "route: {receiver: a, group_by: ['...'], " + times + "}" + receivers, steps: []step{
			{0, "X fires i=1"}, {300 * ms, "X fires i=2"}, {1000 * ms, "X ends i=1"}, {1500 * ms, ""},
		}},
		{name: "resolved with the next tick", config: "route: {receiver: a, group_by: [alertname], " + times + "}" + receivers, steps: []step{
			{0, "X fires i=1"}, {0, "X fires i=2"}, {500 * ms, "X ends i=1"}, {1300 * ms, "X ends i=2"}, {1500 * ms, ""},
		}},
		{name: "resolved while another begins", config: "route: {receiver: a, group_by: [alertname], " + times + "}" + receivers, steps: []step{
			{0, "X fires i=1"}, {500 * ms, "X ends i=1"}, {100 * ms, "X fires i=2"}, {2000 * ms, ""},
		}},
		{name: "over before it was told", config: "route: {receiver: a, group_by: [alertname], group_wait: 600ms, group_interval: 1s, repeat_interval: 1h}" + receivers, steps: []step{
			{0, "X fires i=1"}, {100 * ms, "X ends i=1"}, {1500 * ms, ""},
		}},
		{name: "nobody hears of the end", config: "route: {receiver: quiet, group_by: [alertname], " + times + "}" + receivers, steps: []step{
			{0, "X fires i=1"}, {500 * ms, "X ends i=1"}, {1500 * ms, "X fires i=2"}, {1500 * ms, ""},
		}},
		{name: "repeat", config: "route: {receiver: a, group_by: [alertname], group_wait: 100ms, group_interval: 600ms, repeat_interval: 1s}" + receivers, steps: []step{
			{0, "X fires i=1"}, {1700 * ms, "X ends i=1"}, {1000 * ms, ""},
		}},
		{name: "the first child that matches", config: `
route:
  receiver: a
  group_by: [alertname]
  group_wait: 200ms
  group_interval: 1s
  routes:
  - {receiver: b, matchers: ['team="vision"']}
  - {receiver: quiet, matchers: ['alertname=~"X|Z"']}
` + receivers, steps: []step{{0, "X fires team=vision"}, {0, "X fires team=text"}, {0, "Y fires team=text"}, {1000 * ms, ""}}},
		{name: "continue", config: `
route:
  receiver: a
  group_by: [alertname]
  group_wait: 200ms
  group_interval: 1s
  routes:
  - {receiver: b, matchers: ['team="vision"'], continue: true}
  - {receiver: quiet, match_re: {alertname: X|Z}}
  - {receiver: a, matchers: ['team="vision"']}
` + receivers, steps: []step{{0, "X fires team=vision"}, {0, "Y fires team=vision"}, {1000 * ms, ""}}},
		{name: "inherited and own grouping", config: `
route:
  receiver: a
  group_by: [alertname]
  group_wait: 200ms
  group_interval: 1s
  routes:
  - matchers: ['team=~"v.*"']
    group_by: [team]
    routes: [{receiver: b, matchers: ['severity!="info"']}]
` + receivers, steps: []step{{0, "X fires team=vision severity=critical"}, {0, "Y fires team=vision severity=critical"}, {0, "Y fires team=vision severity=info"}, {1000 * ms, ""}}},
		{name: "inhibition", config: `
route: {receiver: a, group_by: [alertname], group_wait: 300ms, group_interval: 1s, repeat_interval: 1h}
inhibit_rules:
- {source_matchers: ['severity="critical"'], target_matchers: ['severity="warning"'], equal: [node]}
` + receivers, steps: []step{
			{0, "Down fires severity=critical node=n1"}, {50 * ms, "Slow fires severity=warning node=n1"},
			{0, "Slow fires severity=warning node=n2"}, {1000 * ms, "Down ends severity=critical node=n1"}, {2500 * ms, ""},
		}},
		{name: "labels that nobody has are alike", config: `
route: {receiver: a, group_by: [alertname], group_wait: 300ms, group_interval: 1s, repeat_interval: 1h}
inhibit_rules:
- {source_matchers: ['severity="critical"'], target_matchers: ['severity="warning"'], equal: [node, rack]}
` + receivers, steps: []step{{0, "Down fires severity=critical node=n1"}, {0, "Slow fires severity=warning node=n1"}, {0, "Slow fires severity=warning rack=r1"}, {1500 * ms, ""}}},
		{name: "what inhibits ends", config: `
route: {receiver: a, group_by: [alertname], group_wait: 200ms, group_interval: 700ms, repeat_interval: 1h}
inhibit_rules:
- {source_match: {severity: critical}, target_match_re: {severity: warning|info}}
` + receivers, steps: []step{
			{0, "Down fires severity=critical"}, {50 * ms, "Slow fires severity=warning"}, {0, "Note fires severity=info"},
			{500 * ms, "Down ends severity=critical"}, {2200 * ms, ""},
		}},
		{name: "an alert that nobody sends again is over", config: "global: {resolve_timeout: 1s}\nroute: {receiver: a, group_by: [alertname], group_wait: 100ms, group_interval: 700ms, repeat_interval: 1h}" + receivers, steps: []step{
			{0, "X fires i=1"}, {2800 * ms, ""},
		}},
		{name: "siblings and their children", config: `
route:
  receiver: a
  group_by: [alertname]
  group_wait: 200ms
  group_interval: 1s
  routes:
  - matchers: ['team="vision"']
    continue: true
    routes:
    - {receiver: quiet, matchers: ['severity="info"']}
    - {receiver: b, matchers: ['severity=~"crit.*"'], continue: true}
    - {receiver: quiet, matchers: ['node!=""']}
  - {receiver: b, matchers: ['team!~"text|audio"']}
` + receivers, steps: []step{
			{0, "X fires team=vision severity=critical node=n1"}, {0, "Y fires team=vision severity=info"}, {0, "Z fires team=text"}, {0, "W fires team=vision"}, {1200 * ms, ""},
		}},
		{name: "grouped by what some do not have", config: "route: {receiver: a, group_by: [team, node], " + times + "}" + receivers, steps: []step{
			{0, "X fires team=vision"}, {0, "Y fires node=n1"}, {0, "Z fires i=1"}, {0, "W fires team=vision node=n1"}, {1200 * ms, ""},
		}},
		{name: "what matches both sides", config: `
route: {receiver: a, group_by: [alertname], group_wait: 300ms, group_interval: 1s, repeat_interval: 1h}
inhibit_rules:
- {source_match: {kind: k}, target_match: {kind: k}, equal: [node]}
` + receivers, steps: []step{{0, "X fires kind=k node=n1"}, {0, "Y fires kind=k node=n1"}, {1000 * ms, ""}}},
		{name: "silence", config: "route: {receiver: a, group_by: [alertname], " + times + "}" + receivers, steps: []step{
			{0, "silence i=1"}, {50 * ms, "X fires i=1"}, {0, "X fires i=2"}, {700 * ms, "unsilence i=1"}, {2000 * ms, ""},
		}},
		{name: "silenced to its end", config: "route: {receiver: a, group_by: [alertname], " + times + "}" + receivers, steps: []step{
			{0, "X fires i=1"}, {500 * ms, "silence i=1"}, {100 * ms, "X ends i=1"}, {1500 * ms, ""},
		}},
		{name: "muted and active times", config: `
route:
  receiver: a
  group_by: [alertname]
  group_wait: 200ms
  group_interval: 1s
  routes:
  - {receiver: b, matchers: ['alertname="Muted"'], mute_time_intervals: [always]}
  - {receiver: b, matchers: ['alertname="Active"'], active_time_intervals: [always]}
  - {receiver: b, matchers: ['alertname="Inactive"'], active_time_intervals: [lately]}
time_intervals:
- {name: always, time_intervals: [{times: [{start_time: "00:00", end_time: "24:00"}], location: Europe/Berlin}]}
- {name: lately, time_intervals: [{years: ["2001"]}]}
` + receivers, steps: []step{{0, "Muted fires i=1"}, {0, "Active fires i=1"}, {0, "Inactive fires i=1"}, {0, "Other fires i=1"}, {1000 * ms, ""}}},
	}
}

// TestConformance plays sequences of alerts to a real Alertmanager and to Vigil,
// at the same time and with the same configuration, which Vigil imports. Both
// must tell the same, in the same order for each group. Each has a clock of its
// own, so on a busy machine an alert may miss one's tick and not the other's: a
// play in which they differ is played again, and fails when they always do.
func TestConformance(t *testing.T) {
	program := alertmanager(t)
	const tries = 3
	for _, p := range plays() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			for try := 1; ; try++ {
				diff := p.play(t, program)
				if diff == "" {
					return
				}
				if try == tries {
					t.Fatalf("Vigil does not tell what Alertmanager does (-Alertmanager +Vigil):\n%s", diff)
				}
				t.Logf("played again, since they differed:\n%s", diff)
			}
		})
	}
}

// play plays once and gives how the two differed.
func (p play) play(t *testing.T, program string) string {
	t.Helper()
	theirs, ours := newHook(t), newHook(t)
	manager := startAlertmanager(t, program, strings.ReplaceAll(p.config, "HOOK", theirs.URL))
	imported, err := route.Import([]byte(strings.ReplaceAll(p.config, "HOOK", ours.URL)), "")
	must(t, err)
	vigil := newWorld(t, t.TempDir(), string(imported.Config))
	begin := time.Now().Add(-p.old)
	for _, s := range p.steps {
		time.Sleep(s.after)
		for _, url := range []string{manager, vigil.URL} {
			s.do(t, url, begin)
		}
	}
	if len(theirs.messages()) == 0 && p.name != "over before it was told" {
		return "Alertmanager told nothing: the play shows nothing"
	}
	t.Logf("%d notifications of Alertmanager's", len(theirs.messages()))
	return cmp.Diff(byGroup(theirs.messages()), byGroup(ours.messages()), cmpopts.EquateEmpty(),
		cmpopts.IgnoreFields(alertData{}, "EndsAt", "GeneratorURL"))
}

// byGroup gives the messages of each group and receiver in their order.
func byGroup(all []message) map[string][]message {
	groups := map[string][]message{}
	for _, m := range all {
		key := m.Receiver + " " + m.GroupKey
		groups[key] = append(groups[key], m)
	}
	return groups
}

func startAlertmanager(t *testing.T, program, config string) (url string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "alertmanager.yml"), []byte(config), 0o600))
	port := freePort(t)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--config.file="+filepath.Join(dir, "alertmanager.yml"),
		"--storage.path="+filepath.Join(dir, "data"), "--web.listen-address="+port, "--cluster.listen-address=")
	output := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = output, output
	must(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	url = "http://" + port
	testkit.Eventually(t, "Alertmanager", func() bool {
		response, err := http.Get(url + "/-/ready")
		if err == nil {
			_ = response.Body.Close()
		}
		return err == nil && response.StatusCode == http.StatusOK
	})
	http.DefaultClient.CloseIdleConnections()
	return url
}

func freePort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// do plays a step to one of the two.
func (s step) do(t *testing.T, url string, begin time.Time) {
	t.Helper()
	words := strings.Fields(s.alert)
	if len(words) == 0 {
		return
	}
	switch words[0] {
	case "silence":
		name, value, _ := strings.Cut(words[1], "=")
		s.post(t, url+"/api/v2/silences", map[string]any{
			"matchers":  []map[string]any{{"name": name, "value": value, "isRegex": false, "isEqual": true}},
			"startsAt":  time.Now().Add(-time.Second).UTC().Format(time.RFC3339Nano),
			"endsAt":    time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano),
			"createdBy": "ada", "comment": "known",
		})
	case "unsilence":
		s.unsilence(t, url)
	default:
		labels := map[string]string{"alertname": words[0]}
		for _, word := range words[2:] {
			name, value, _ := strings.Cut(word, "=")
			labels[name] = value
		}
		alert := map[string]any{"labels": labels, "annotations": map[string]string{"summary": words[0] + " is wrong"},
			"startsAt": begin.UTC().Format(time.RFC3339Nano)}
		if words[1] == "ends" {
			alert["endsAt"] = time.Now().UTC().Format(time.RFC3339Nano)
		}
		s.post(t, url+"/api/v2/alerts", []any{alert})
	}
}

func (s step) post(t *testing.T, url string, body any) {
	t.Helper()
	if status, text := call(t, http.MethodPost, url, body); status != http.StatusOK {
		t.Fatalf("%s: POST %s: %d %s", s.alert, url, status, text)
	}
}

func (s step) unsilence(t *testing.T, url string) {
	t.Helper()
	_, text := call(t, http.MethodGet, url+"/api/v2/silences", nil)
	_, id, ok := strings.Cut(text, `"id":"`)
	if !ok {
		t.Fatalf("no silence in %s", text)
	}
	id, _, _ = strings.Cut(id, `"`)
	if status, text := call(t, http.MethodDelete, fmt.Sprintf("%s/api/v2/silence/%s", url, id), nil); status != http.StatusOK {
		t.Fatalf("end silence: %d %s", status, text)
	}
}
