package redact

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
)

// everything takes out all there is, and the corpus' employees' numbers.
func everything(t *testing.T) Redactor {
	t.Helper()
	r, err := New(Config{Secrets: true, Mail: true, Patterns: []string{`\bE-\d{4}\b`}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type sample struct{ line, hidden string }

func corpus(t *testing.T) []sample {
	t.Helper()
	text, err := os.ReadFile("testdata/corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	var samples []sample
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\n"); strings.HasPrefix(line, "# ") {
			continue
		}
		line, hidden, _ := strings.Cut(line, " => ")
		samples = append(samples, sample{line, hidden})
	}
	if len(samples) < 40 {
		t.Fatalf("the corpus has %d lines", len(samples))
	}
	return samples
}

func TestCorpus(t *testing.T) {
	r := everything(t)
	for _, s := range corpus(t) {
		got := r.Text(s.line)
		if s.hidden == "" && got != s.line {
			t.Errorf("%q became %q; there is nothing to hide", s.line, got)
		}
		if s.hidden != "" && (strings.Contains(got, s.hidden) || !strings.Contains(s.line, s.hidden)) {
			t.Errorf("%q became %q; %q must not be in it", s.line, got, s.hidden)
		}
		if bytes := string(r.Bytes([]byte(s.line))); bytes != got {
			t.Errorf("as bytes %q, as text %q", bytes, got)
		}
	}
}

// opaque is a value that a handler would write by its own means.
type opaque struct{ Text string }

func TestHandlerHidesWhereverASecretIs(t *testing.T) {
	for _, s := range corpus(t) {
		if s.hidden == "" {
			continue
		}
		for name, log := range map[string]func(*slog.Logger){
			"message":  func(l *slog.Logger) { l.Info(s.line) },
			"text":     func(l *slog.Logger) { l.Info("m", "said", s.line) },
			"error":    func(l *slog.Logger) { l.Info("m", "error", errors.New(s.line)) },
			"struct":   func(l *slog.Logger) { l.Info("m", "value", opaque{s.line}) },
			"named":    func(l *slog.Logger) { l.Info("m", "value", raw(s.line)) },
			"bytes":    func(l *slog.Logger) { l.Info("m", "value", []byte(s.line)) },
			"raw JSON": func(l *slog.Logger) { l.Info("m", "value", json.RawMessage(mustJSON(t, s.line))) },
			"pointers": func(l *slog.Logger) { l.Info("m", "value", &struct{ Inner *opaque }{&opaque{s.line}}) },
			"slice":    func(l *slog.Logger) { l.Info("m", "value", []string{s.line}) },
			"with":     func(l *slog.Logger) { l.With("said", s.line).Info("m") },
			"group":    func(l *slog.Logger) { l.WithGroup("g").Info("m", slog.Group("h", "said", s.line)) },
			"valuer":   func(l *slog.Logger) { l.Info("m", "value", valuer(s.line)) },
			"the name": func(l *slog.Logger) { l.Info("m", "Slack-Token", s.hidden, slog.Group("g", "api_key", s.hidden)) },
		} {
			var out bytes.Buffer
			for _, next := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
				log(slog.New(everything(t).Handler(next)))
			}
			// Handlers escape; what must not be there has no character that they do.
			if strings.Contains(out.String(), s.hidden) {
				t.Errorf("%s: %s", name, out.String())
			}
		}
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// raw is bytes of a type of its own.
type raw []byte

type valuer string

func (v valuer) LogValue() slog.Value { return slog.StringValue(string(v)) }

func TestHandlerLeavesTheRest(t *testing.T) {
	var got, want bytes.Buffer
	log := func(l *slog.Logger) {
		l = l.With("node", "n1", "address", "10.0.0.7:7443").WithGroup("run")
		l.Warn("step is late", "step", 7, "seconds", 0.25, "error", errors.New("refused"), "token_file", "/etc/token", "ranks", []int{1, 2})
		l.Debug("not said")
	}
	log(slog.New(everything(t).Handler(slog.NewJSONHandler(&got, nil))))
	log(slog.New(slog.NewJSONHandler(&want, nil)))
	cut := func(s string) string { return s[strings.Index(s, `"level"`):] } // behind the time
	if cut(got.String()) != cut(want.String()) {
		t.Errorf("got %s want %s", got.String(), want.String())
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Config{Patterns: []string{"fine", "("}}); err == nil || !strings.Contains(err.Error(), "pattern 2") {
		t.Errorf("a pattern that is none: %v", err)
	}
	if (Redactor{}).Active() || (Redactor{}).Text("token=abc") != "token=abc" {
		t.Error("the zero value takes something out")
	}
}
