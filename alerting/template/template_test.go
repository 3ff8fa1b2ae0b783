package template

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/alerting/notify/notifytest"
	"github.com/vigil-ml/vigil/internal/fault"
)

func TestText(t *testing.T) {
	file := filepath.Join(t.TempDir(), "own.tmpl")
	if err := os.WriteFile(file, []byte(`{{ define "own.title" }}{{ .CommonLabels.run | title }}: {{ len .Alerts.Firing }}{{ end }}`), 0o600); err != nil {
		t.Fatal(err)
	}
	templates, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`{{ .Status | toUpper }} {{ .CommonLabels.alertname }}`:                        "FIRING nonfinite",
		`{{ template "own.title" . }}`:                                                 "Digits-7: 1",
		`{{ range .Alerts }}{{ .Labels.node }} {{ .Annotations.onset_step }}{{ end }}`: "gpu-07 412",
		`{{ .CommonLabels.Names.Join "," }}`:                                           "alertname,incident,node,rank,run,severity",
		`{{ reReplaceAll "gpu-(.*)" "n$1" .CommonLabels.node }} {{ .ExternalURL }}`:    "n07 http://v",
		`{{ join "+" (stringSlice "a" "b") }}`:                                         "a+b",
		`{{ .GroupLabels.Remove (stringSlice "x") | len }}`:                            "0",
	} {
		got, err := templates.Text(text, notifytest.Firing(), "http://v")
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
	if got, err := templates.Text(`{{ template "__subject" . }}`, notifytest.Resolved(), ""); err != nil || !strings.HasPrefix(got, "[RESOLVED]") {
		t.Errorf("Alertmanager's own subject: %q, %v", got, err)
	}
	for _, bad := range []string{"{{", "{{ .None.At.All }}", `{{ template "none" . }}`} {
		if _, err := templates.Text(bad, notifytest.Firing(), ""); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "[")); !fault.Is(err, fault.Invalid) {
		t.Errorf("a pattern that is none: %v", err)
	}
}

// TestWhatIsToldIsNoTemplate: what runs, people and other systems say is text,
// also where it looks like a template or like markup.
func TestWhatIsToldIsNoTemplate(t *testing.T) {
	templates, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, evil := range []string{
		`{{ .ExternalURL }}`, `{{ template "__subject" . }}`, `{{ range $i, $e := (stringSlice "a") }}x{{ end }}`, `{{`, `}}{{ define "x" }}`, "${HOME} $(id) `id`", "%s%n%!d",
	} {
		d := notifytest.Firing()
		d.Incident.RunId, d.Incident.Summary = evil, evil
		got, err := templates.Text(`{{ .CommonLabels.run }}`, d, "http://v")
		if err != nil || got != evil {
			t.Errorf("%q became %q, %v", evil, got, err)
		}
	}
}
