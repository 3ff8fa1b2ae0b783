package notify_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/fault"
)

// TestWords: a template that fails leaves the notification its own words.
func TestWords(t *testing.T) {
	deps := notify.Deps{Log: slog.New(slog.DiscardHandler), Fill: func(text string, _ alert.Delivery) (string, error) {
		if text == "bad" {
			return "", errors.New("no such field")
		}
		return strings.ToUpper(text), nil
	}}
	for template, want := range map[string]string{"": "own", "bad": "own", "good": "GOOD"} {
		if got := deps.Words(template, alert.Delivery{}, "own"); got != want {
			t.Errorf("%q: %q, want %q", template, got, want)
		}
	}
	if err := deps.CheckTemplates(map[string]string{"title": "good", "text": ""}); err != nil {
		t.Error(err)
	}
	if err := deps.CheckTemplates(map[string]string{"title": "bad"}); !fault.Is(err, fault.Invalid) || !strings.HasPrefix(err.Error(), "title: ") {
		t.Errorf("a bad template: %v", err)
	}
	if got := (notify.Deps{}).Words("good", alert.Delivery{}, "own"); got != "own" {
		t.Errorf("without templates: %q", got)
	}
}
