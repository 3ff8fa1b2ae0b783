package alertapi_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/testkit"
)

// oneHook is a configuration that tells one webhook of everything at once.
func oneHook(url string) string {
	return "alerting:\n  route: {receiver: a}\n  receivers:\n  - {name: a, webhook: {url: '" + url + "'}}\n"
}

// TestPrometheus has a real Prometheus send its alerts here, until they are
// over.
func TestPrometheus(t *testing.T) {
	program := testkit.Require(t, "prometheus")
	told := newHook(t)
	w := newWorld(t, t.TempDir(), oneHook(told.URL))
	dir := t.TempDir()
	rules := func(expression string) {
		must(t, os.WriteFile(filepath.Join(dir, "rules.yml"), []byte(`
groups:
- name: g
  interval: 200ms
  rules:
  - {alert: Always, expr: '`+expression+`', labels: {severity: critical, run: r1}, annotations: {summary: "it is {{ $value }}"}}
`), 0o600))
	}
	rules("vector(1)")
	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(`
global: {evaluation_interval: 200ms}
rule_files: [rules.yml]
alerting:
  alertmanagers:
  - static_configs: [{targets: ['`+strings.TrimPrefix(w.URL, "http://")+`']}]
`), 0o600))
	address := freePort(t)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--web.enable-lifecycle",
		"--rules.alert.resend-delay=200ms")
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
	testkit.Eventually(t, "the alert to be told", func() bool { return len(told.messages()) == 1 })
	first := told.messages()[0]
	if first.Status != "firing" || first.CommonLabels["run"] != "r1" || first.CommonAnnotations["summary"] != "it is 1" {
		t.Errorf("told %+v", first)
	}
	rules("vector(1) > 2")
	call(t, http.MethodPost, "http://"+address+"/-/reload", nil)
	testkit.Eventually(t, "its end to be told", func() bool { return len(told.messages()) >= 2 })
	if last := told.messages()[1]; last.Status != "resolved" || last.GroupKey != first.GroupKey {
		t.Errorf("told %+v, want the end of %q", last, first.GroupKey)
	}
}

// TestAmtoolRoutes has the real amtool ask where alerts go: it gets the tree that
// Vigil goes by, in all that a tree may have.
func TestAmtoolRoutes(t *testing.T) {
	program := testkit.Require(t, "amtool")
	w := newWorld(t, t.TempDir(), `
alerting:
  receivers: [{name: a, webhook: {url: 'http://127.0.0.1:1/s3cret'}}, {name: b, log: {}}]
  route:
    receiver: a
    group_by: [alertname, run]
    group_wait: 0s
    routes:
    - {receivers: [a, b], matchers: ['severity="critical"', 'node=~"gpu-.*"'], continue: true, group_interval: 90s}
    - {receiver: nobody, matchers: ['job="batch"'], mute_time_intervals: [nights]}
    - {receiver: b, matchers: ['team=vision'], group_by: ["..."], repeat_interval: 1h}
  inhibit_rules: [{source_matchers: [severity="critical"], target_matchers: [severity="warning"], equal: [run]}]
  time_intervals: [{name: nights, time_intervals: [{times: [{start_time: "22:00", end_time: "24:00"}], weekdays: ["monday:friday"], location: Europe/Berlin}]}]
`)
	for labels, want := range map[string]string{
		"severity=critical node=gpu-1 team=vision": "a, b,b", "job=batch": "nobody", "team=vision": "b", "team=other": "a",
	} {
		args := append([]string{"config", "routes", "test", "--alertmanager.url=" + w.URL}, strings.Fields(labels)...)
		// Not what it says on standard error: that the versions differ.
		text, err := exec.CommandContext(t.Context(), program, args...).Output()
		if got := strings.TrimSpace(string(text)); err != nil || got != want {
			t.Errorf("%s goes to %q (%v), want %q", labels, got, err, want)
		}
	}
	text, err := exec.CommandContext(t.Context(), program, "config", "show", "--alertmanager.url="+w.URL).Output()
	if err != nil || strings.Contains(string(text), "s3cret") || !strings.Contains(string(text), "Europe/Berlin") {
		t.Errorf("config show: %v\n%s", err, text)
	}
}

// TestAmtool has the real amtool list alerts and make, list and end silences.
func TestAmtool(t *testing.T) {
	program := testkit.Require(t, "amtool")
	told := newHook(t)
	w := newWorld(t, t.TempDir(), oneHook(told.URL))
	amtool := func(args ...string) string {
		t.Helper()
		var wrong strings.Builder
		cmd := exec.CommandContext(t.Context(), program, append(args, "--alertmanager.url="+w.URL)...)
		cmd.Stderr = &wrong
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("amtool %v: %v\n%s", args, err, wrong.String())
		}
		return strings.TrimSpace(string(text))
	}
	has := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("want %q in:\n%s", want, text)
			}
		}
	}
	amtool("alert", "add", "Slow", "node=n1", "severity=critical", "--annotation=summary=it is slow")
	has(amtool("alert", "query", "alertname=Slow"), "Slow", "it is slow", "active")
	id := amtool("silence", "add", "node=~n.", "--comment=known", "--author=ada", "--duration=1h")
	has(amtool("silence", "query"), id, `node=~"n."`, "ada", "known")
	if text := amtool("alert", "query", "alertname=Slow"); strings.Contains(text, "Slow") {
		t.Errorf("a silenced alert is shown as active:\n%s", text)
	}
	has(amtool("alert", "query", "--silenced", "alertname=Slow"), "Slow", "suppressed")
	amtool("silence", "update", id, "--comment=still known", "--duration=2h")
	has(amtool("silence", "query"), "still known")
	amtool("silence", "expire", id)
	if text := amtool("silence", "query"); strings.Contains(text, id) {
		t.Errorf("an expired silence is listed:\n%s", text)
	}
	has(amtool("silence", "query", "--expired"), id)
	for _, path := range []string{"/api/v2/alerts/groups", "/api/v2/receivers", "/api/v2/status", "/-/ready", "/api/v2/alerts?filter=alertname%3D%22Slow%22&receiver=a"} {
		status, text := call(t, http.MethodGet, w.URL+path, nil)
		if status != http.StatusOK || text == "[]\n" {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
}

// TestRestart: what was told is not told again by the next process, and a group
// that waited is told by it.
func TestRestart(t *testing.T) {
	told, dir := newHook(t), t.TempDir()
	config := "alerting:\n  route: {receiver: a, group_by: [alertname], group_wait: 1s, group_interval: 1s}\n" +
		"  receivers:\n  - {name: a, webhook: {url: '" + told.URL + "'}}\n"
	w := newWorld(t, dir, config)
	post := func(labels map[string]string) {
		t.Helper()
		status, text := call(t, http.MethodPost, w.URL+"/api/v2/alerts", []any{map[string]any{"labels": labels}})
		if status != http.StatusOK {
			t.Fatal(text)
		}
	}
	post(map[string]string{"alertname": "Told"})
	testkit.Eventually(t, "the first", func() bool { return len(told.messages()) == 1 })
	post(map[string]string{"alertname": "Waits"})
	w.stop()
	w = newWorld(t, dir, config)
	testkit.Eventually(t, "the one that waited", func() bool { return len(told.messages()) >= 2 })
	post(map[string]string{"alertname": "Last"})
	testkit.Eventually(t, "the last", func() bool { return len(told.messages()) >= 3 })
	var names []string
	for _, m := range told.messages() {
		names = append(names, m.CommonLabels["alertname"])
	}
	if got := strings.Join(names, " "); got != "Told Waits Last" {
		t.Errorf("told %s", got)
	}
}

// TestRefuses: what is no alert or no silence is refused with a text, and does
// not keep the others out.
func TestRefuses(t *testing.T) {
	w := newWorld(t, t.TempDir(), "alerting: {}\nincident: {expect: [{name: backup, ping: backup, within: 1h}]}\n")
	for _, test := range []struct {
		method, path string
		body         any
		want         int
	}{
		{http.MethodPost, "/api/v2/alerts", []any{map[string]any{"labels": map[string]string{"a": "b"}}, map[string]any{}}, 400},
		{http.MethodPost, "/api/v2/alerts", "text", 400},
		{http.MethodGet, "/api/v2/alerts?filter=a%3D~%22%28%22", nil, 400},
		{http.MethodGet, "/api/v2/alerts?receiver=%28", nil, 400},
		{http.MethodGet, "/api/v2/alerts/groups?filter=a%3D~%22%28%22", nil, 400},
		{http.MethodPost, "/api/v2/silences", map[string]any{"comment": "c"}, 400},
		{http.MethodGet, "/api/v2/silence/none", nil, 404},
		{http.MethodDelete, "/api/v2/silence/none", nil, 404},
		{http.MethodPost, "/ping/backup", nil, 200},
		{http.MethodPost, "/ping/other", nil, 404},
	} {
		if status, text := call(t, test.method, w.URL+test.path, test.body); status != test.want {
			t.Errorf("%s %s: %d %s, want %d", test.method, test.path, status, text, test.want)
		}
	}
	if _, text := call(t, http.MethodGet, w.URL+"/api/v2/alerts", nil); !strings.Contains(text, `"a":"b"`) {
		t.Errorf("the alert beside a bad one is lost: %s", text)
	}
}
