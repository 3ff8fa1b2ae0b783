package slack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

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
		"firing":   at("http://vigil.example:8080").compose(notifytest.Firing()),
		"resolved": at("http://vigil.example:8080").compose(notifytest.Resolved()),
		"warning":  at("").compose(warning),
		"bare":     at("").compose(bare),
	} {
		body := marshal(t, m)
		check(t, body)
		notifytest.Golden(t, name, body)
	}
}

// at is a notifier of a control plane at an address.
func at(url string) *notifier {
	return &notifier{config: Config{SigningSecret: "s"}, deps: notify.Deps{ExternalURL: url}}
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
		body := marshal(t, at("http://v?a=1").compose(d))
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
		"{token: xoxb-1, channel: C1}":                  "",
		"{token: xoxb-1, channel: C1, url: 'http://a'}": "f.yaml:1: url: is given beside token and channel; keep one of the two ways",
		"token: xoxb-1": "f.yaml:1: channel: is missing; want the channel's id, for instance C024BE91L",
		"channel: C1":   "f.yaml:1: token: is missing",
		"url: https://hooks.slack.com/services/a/b/c": "",
		"{}":                                  "f.yaml:1: url: is missing; want the receiver's http or https URL",
		"url: hooks.slack.com/services/a/b/c": "f.yaml:1: url: does not begin with http:// or https://",
	} {
		c := Config{APIURL: "https://slack.com/api"}
		got := ""
		if err := conf.Decode("f.yaml", []byte(yaml), &c); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", yaml, got, want)
		}
	}
}
