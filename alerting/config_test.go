package alerting

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

// build reads a file with an alerting part, as the control plane does.
func build(text string) (*Alerting, error) {
	file := struct {
		Alerting Config `yaml:"alerting"`
	}{Defaults()}
	if err := conf.Decode("c.yaml", []byte(text), &file); err != nil {
		return nil, err
	}
	return New(file.Alerting, Deps{
		Queue: newMemory(), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Tracer: noop.NewTracerProvider().Tracer(""),
	})
}

func TestReceivers(t *testing.T) {
	for text, want := range map[string][]string{
		"":                          {"log"},
		"alerting: {}":              {"log"},
		"alerting: {receivers: []}": {"log"},
		`alerting:
  max_age: 1h
  receivers:
  - name: oncall
    slack: {url: https://hooks.slack.com/services/a/b/c}
  - webhook:
      url: http://localhost:9093/hook
      headers: {X-Scope-OrgID: vision}
    name: archive
  - {name: console, log: }
`: {"oncall", "archive", "console"},
	} {
		a, err := build(text)
		if err != nil {
			t.Errorf("%s\n%v", text, err)
			continue
		}
		if diff := cmp.Diff(want, a.Receivers()); diff != "" {
			t.Errorf("%s\n-want +got:\n%s", text, diff)
		}
	}
}

func TestEveryMistakeInTheReceiversIsNamedAtOnce(t *testing.T) {
	_, err := build(`alerting:
  receivers:
  - name: oncall
    slack: {url: hooks.slack.com/SECRET}
  - name: oncall
    webhook: {uri: http://localhost}
  - slak: {url: http://localhost}
    name: typo
  - name: none
  - name: two
    log: {}
    webhook: {url: http://localhost}
  - log: {}
  - name: twice
    log: {}
    log: {}
  - just text
  - name: ` + strings.Repeat("n", 65) + `
    log: {}
`)
	want := []string{
		`c.yaml:4: alerting.receivers[0].slack.url: does not begin with http:// or https://`,
		`c.yaml:5: alerting.receivers[1]: is the second receiver with the name "oncall"`,
		`c.yaml:6: alerting.receivers[1].webhook.uri: unknown key; did you mean "url"?`,
		`c.yaml:6: alerting.receivers[1].webhook.url: is missing; want the receiver's http or https URL`,
		`c.yaml:7: alerting.receivers[2].slak: unknown key; did you mean "slack"?`,
		`c.yaml:9: alerting.receivers[3]: has no kind; want one of alertmanager, email, grafana, log, pagerduty, slack, webhook`,
		`c.yaml:10: alerting.receivers[4]: has the kinds log and webhook; want one`,
		`c.yaml:13: alerting.receivers[5]: has no name`,
		`c.yaml:16: alerting.receivers[6].log: the key is given twice`,
		`c.yaml:17: alerting.receivers[7]: want keys with values here`,
		`c.yaml:18: alerting.receivers[8]: has a name of 65 bytes; at most 64`,
	}
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(strings.Join(want, "\n"), err.Error()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !fault.Is(err, fault.Invalid) {
		t.Errorf("kind = %v", fault.KindOf(err))
	}
}

func TestTimesAreChecked(t *testing.T) {
	_, err := build("alerting:\n  max_age: 5s\n  try_timeout: 1h\n")
	want := "c.yaml:2: alerting.max_age: is 5s; want at least 1m\nc.yaml:3: alerting.try_timeout: is 1h0m0s; want 1s to 20s"
	if err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
	if d := Defaults(); d.MaxAge != 24*time.Hour || d.TryTimeout != 10*time.Second {
		t.Errorf("default = %+v", d)
	}
}

func TestReceiversGivesACopy(t *testing.T) {
	a, err := build("")
	if err != nil {
		t.Fatal(err)
	}
	a.Receivers()[0] = "changed"
	if got := a.Receivers()[0]; got != "log" {
		t.Errorf("the name is now %q", got)
	}
}

func TestEveryKindHasANameOfItsOwn(t *testing.T) {
	seen := map[string]bool{"name": true} // a receiver's own key
	for _, name := range Notifiers().Names() {
		if seen[name] {
			t.Errorf("kind %q is there twice", name)
		}
		seen[name] = true
	}
}

// TestTemplatesAreTriedAtTheStart: a template that cannot be filled in is a
// mistake in the configuration, with its place.
func TestTemplatesAreTriedAtTheStart(t *testing.T) {
	for text, want := range map[string]string{
		`{{ .CommonLabels.run | toUpper }}`: "",
		`{{ .CommonLabels.run`:              "text: fill in template",
		`{{ .Nothing.Here }}`:               "text: fill in template",
		`{{ template "none" . }}`:           "text: fill in template",
	} {
		_, err := build("alerting:\n  receivers:\n  - name: a\n    slack:\n      url: http://127.0.0.1/x\n      text: '" + text + "'\n")
		if (err == nil) != (want == "") || (err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "c.yaml:"))) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := build("alerting: {templates: ['[']}\n"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a pattern that is none: %v", err)
	}
}
