package slack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"

	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/notify/notifytest"
	"github.com/vigil-ml/vigil/internal/conf"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	incident := regexp.MustCompile("Incident `([^`]+)`")
	notifytest.Run(t, notifytest.Suite{
		New: func(t *testing.T, url string, deps notify.Deps) notify.Notifier {
			n, err := New(Config{URL: notify.Secret(url)}, deps)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Key: func(_ *testing.T, r notifytest.Request) string {
			if m := incident.FindSubmatch(r.Body); m != nil {
				return string(m[1])
			}
			return ""
		},
	})
}

func TestMessages(t *testing.T) {
	warning, bare := notifytest.Firing(), notifytest.Firing()
	warning.State = controlv1.IncidentState_INCIDENT_STATE_ACKNOWLEDGED
	warning.Incident.Severity = commonv1.Severity_SEVERITY_WARNING
	bare.Incident = &controlv1.Incident{IncidentId: "inc-1", RunId: "digits-7"}
	for name, m := range map[string]message{
		"firing":   compose(notifytest.Firing(), "http://vigil.example:8080"),
		"resolved": compose(notifytest.Resolved(), "http://vigil.example:8080"),
		"warning":  compose(warning, ""),
		"bare":     compose(bare, ""),
	} {
		body := marshal(t, m)
		check(t, body)
		notifytest.Golden(t, name, body)
	}
}

func marshal(t *testing.T, m message) []byte {
	t.Helper()
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false) // as golden files, for people
	if err := encoder.Encode(m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// check holds a message against what Slack documents, strictly: no key that it
// does not know, no text that is empty or too long, no bare control character.
func check(t *testing.T, body []byte) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	var m message
	if err := decoder.Decode(&m); err != nil {
		t.Fatalf("decode message: %v\n%s", err, body)
	}
	checkText(t, "text", &text{Type: "mrkdwn", Text: m.Text}, maxText)
	if len(m.Attachments) > 20 {
		t.Errorf("%d attachments", len(m.Attachments))
	}
	blocks := m.Blocks
	for _, a := range m.Attachments {
		if !regexp.MustCompile("^#[0-9a-f]{6}$").MatchString(a.Color) {
			t.Errorf("color %q", a.Color)
		}
		blocks = append(blocks, a.Blocks...)
	}
	if len(blocks) == 0 || len(blocks) > 50 {
		t.Errorf("%d blocks, want 1 to 50", len(blocks))
	}
	for _, b := range blocks {
		checkBlock(t, b)
	}
}

func checkBlock(t *testing.T, b block) {
	t.Helper()
	switch b.Type {
	case "header":
		if b.Text == nil || b.Text.Type != "plain_text" || b.Fields != nil || b.Elements != nil {
			t.Errorf("header %+v", b)
		}
		checkText(t, "header", b.Text, 150)
	case "section":
		if (b.Text == nil) == (len(b.Fields) == 0) || len(b.Fields) > 10 || b.Elements != nil {
			t.Errorf("section %+v", b)
		}
		if b.Text != nil {
			checkText(t, "section", b.Text, 3000)
		}
		for _, f := range b.Fields {
			checkText(t, "field", &f, 2000)
		}
	case "context":
		if len(b.Elements) == 0 || len(b.Elements) > 10 || b.Text != nil || b.Fields != nil {
			t.Errorf("context %+v", b)
		}
		for _, e := range b.Elements {
			checkText(t, "context", &e, 3000)
		}
	default:
		t.Errorf("block of type %q", b.Type)
	}
}

func checkText(t *testing.T, where string, x *text, limit int) {
	t.Helper()
	if n := len(utf16.Encode([]rune(x.Text))); n < 1 || n > limit {
		t.Errorf("%s has %d characters, want 1 to %d", where, n, limit)
	}
	if x.Type != "mrkdwn" {
		return
	}
	rest := regexp.MustCompile("&(amp|lt|gt);").ReplaceAllString(x.Text, "")
	rest = regexp.MustCompile(`<http://[^<>|&]+\|Vigil>$`).ReplaceAllString(rest, "")
	if strings.ContainsAny(rest, "&<>") {
		t.Errorf("%s has a bare control character: %q", where, rest)
	}
}

func TestAnyIncidentFitsSlack(t *testing.T) {
	letters := []string{"a", "&", "<", ">", "<!channel>", "\U0001F534", "é", "\n", "*", "`", "&amp;", " "}
	for seed := range uint64(80) {
		random := rand.New(rand.NewPCG(seed, 7))
		word := func() string {
			var b strings.Builder
			for range random.IntN(1 << random.IntN(13)) {
				b.WriteString(letters[random.IntN(len(letters))])
			}
			return b.String()
		}
		d := alert.Delivery{State: controlv1.IncidentState(random.IntN(4)), Incident: &controlv1.Incident{
			IncidentId: fmt.Sprint("inc-", seed), RunId: word(), Kind: word(), Summary: word(),
			Severity: commonv1.Severity(random.IntN(4)),
		}}
		for range random.IntN(3) {
			d.Incident.Findings = append(d.Incident.Findings, &controlv1.Finding{Node: word(), Summary: word()})
		}
		for range random.IntN(40) {
			d.Incident.Timeline = append(d.Incident.Timeline, &controlv1.TimelineEntry{Action: "checkpoint", Text: word()})
		}
		body := marshal(t, compose(d, "http://v?a=1"))
		check(t, body)
		if t.Failed() {
			t.Fatalf("seed %d: %s", seed, body)
		}
	}
}

func TestClip(t *testing.T) {
	for _, test := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 10, "-"},
		{"abc", 3, "abc"},
		{"abcdefgh", 6, "abc..."},
		{"abc&amp;defgh", 10, "abc..."},
		{"ab&amp;defgh", 10, "ab&amp;..."},
		{"\U0001F534\U0001F534\U0001F534\U0001F534", 7, "\U0001F534\U0001F534..."},
	} {
		if got := clip(test.in, test.limit); got != test.want {
			t.Errorf("clip(%q, %d) = %q, want %q", test.in, test.limit, got, test.want)
		}
	}
}

func TestConfig(t *testing.T) {
	for yaml, want := range map[string]string{
		"url: https://hooks.slack.com/services/a/b/c": "",
		"":                                    "f.yaml: url: is missing; want the receiver's http or https URL",
		"url: hooks.slack.com/services/a/b/c": "f.yaml:1: url: does not begin with http:// or https://",
	} {
		var c Config
		got := ""
		if err := conf.Decode("f.yaml", []byte(yaml), &c); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", yaml, got, want)
		}
	}
}
