package pagerduty

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/notify/notifytest"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const routingKey = "R0s3cretKEYSECRET4567890abcdef12"

func TestConformance(t *testing.T) {
	notifytest.Run(t, notifytest.Suite{
		New: func(t *testing.T, url string, deps notify.Deps) notify.Notifier {
			n, err := New(Config{URL: notify.Secret(url), RoutingKey: routingKey}, deps)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Key:     func(t *testing.T, r notifytest.Request) string { return checkEvent(t, r.Body).DedupKey },
		Success: `{"status":"success","message":"Event processed","dedup_key":"k"}`,
	})
}

// checkEvent holds an alert event against what PagerDuty documents: no field
// that it does not know, every required one, lengths and values.
func checkEvent(t *testing.T, body []byte) event {
	t.Helper()
	if len(body) > 512<<10 {
		t.Errorf("%d bytes, at most 512 KB", len(body))
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	var e event
	if err := decoder.Decode(&e); err != nil {
		t.Fatalf("decode event: %v\n%s", err, body)
	}
	if len(e.RoutingKey) != 32 || len(e.DedupKey) == 0 || len(e.DedupKey) > 255 {
		t.Errorf("routing_key of %d, dedup_key of %d bytes", len(e.RoutingKey), len(e.DedupKey))
	}
	if e.Action != "trigger" && e.Action != "acknowledge" && e.Action != "resolve" {
		t.Errorf("event_action %q", e.Action)
	}
	if e.Payload == nil || e.Payload.Summary == "" || len([]rune(e.Payload.Summary)) > 1024 || e.Payload.Source == "" {
		t.Errorf("payload %+v", e.Payload)
	}
	if !strings.Contains("critical error warning info", e.Payload.Severity) || e.Payload.Severity == "" {
		t.Errorf("severity %q", e.Payload.Severity)
	}
	for _, l := range e.Links {
		if !strings.HasPrefix(l.Href, "http") {
			t.Errorf("link %+v", l)
		}
	}
	return e
}

// provider is a PagerDuty that keeps what it gets, by path.
func provider(t *testing.T, status int) (*httptest.Server, map[string][]byte) {
	got := map[string][]byte{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		got[r.URL.Path] = body.Bytes()
		if r.URL.Path == "/v2/change/enqueue" {
			w.WriteHeader(status)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(server.Close)
	return server, got
}

func newNotifier(t *testing.T, config Config, deps notify.Deps) *notifier {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	deps.HTTPClient, deps.Receiver, deps.Log = client, "oncall", slog.New(slog.DiscardHandler)
	config.RoutingKey = routingKey
	n, err := New(config, deps)
	if err != nil {
		t.Fatal(err)
	}
	return n.(*notifier)
}

func TestEvents(t *testing.T) {
	for name, test := range map[string]struct {
		state    controlv1.IncidentState
		action   string
		restart  bool
		changeOK int
	}{
		"firing":                        {1, "trigger", true, 202},
		"acknowledged":                  {2, "acknowledge", true, 202},
		"resolved":                      {3, "resolve", false, 202},
		"resolved after a restart":      {3, "resolve", true, 202},
		"a change event that is no use": {3, "resolve", true, 500},
	} {
		server, got := provider(t, test.changeOK)
		n := newNotifier(t, Config{URL: notify.Secret(server.URL)}, notify.Deps{
			ExternalURL: "http://vigil.example", DashboardURL: "http://grafana.example/d/run?var-run={run}",
		})
		d := notifytest.Firing()
		d.State = test.state
		if test.restart {
			d.Incident.Timeline = append(d.Incident.Timeline, &controlv1.TimelineEntry{Action: "restart", Text: "Attempt 1.", Time: d.Incident.Opened})
		}
		if err := n.Notify(t.Context(), d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		e := checkEvent(t, got["/v2/enqueue"])
		if e.Action != test.action || e.DedupKey != d.Key || e.Links[0].Href != "http://grafana.example/d/run?var-run=digits-7" {
			t.Errorf("%s: %+v", name, e)
		}
		change, wanted := got["/v2/change/enqueue"], test.restart
		if (change != nil) != wanted || (wanted && !bytes.Contains(change, []byte("Attempt 1."))) {
			t.Errorf("%s: change event %s", name, change)
		}
	}
}

// TestRestartsAreChangeEvents: those that came since the last time make one,
// which is tried again when it is not taken; what else happens makes none.
func TestRestartsAreChangeEvents(t *testing.T) {
	server, got := provider(t, http.StatusAccepted)
	n := newNotifier(t, Config{URL: notify.Secret(server.URL)}, notify.Deps{Memory: &notifytest.Memory{}})
	d := notifytest.Firing()
	d.State, d.Occasion = 0, alert.Story
	happens := func(action string, texts ...string) string {
		t.Helper()
		for _, text := range texts {
			d.Incident.Timeline = append(d.Incident.Timeline, &controlv1.TimelineEntry{Action: action, Text: text, Time: d.Incident.Opened})
		}
		delete(got, "/v2/change/enqueue")
		if err := n.Notify(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		return string(got["/v2/change/enqueue"])
	}
	if event := happens("note", "Bad data."); event != "" {
		t.Errorf("a note makes a change event: %s", event)
	}
	if event := happens("restart", "Attempt 0 ended.", "Attempt 1 goes on."); !strings.Contains(event, "Attempt 0 ended.") || !strings.Contains(event, `"summary":"Run digits-7: Attempt 1 goes on."`) {
		t.Errorf("two restarts: %s", event)
	}
	if event := happens("restart"); event != "" {
		t.Errorf("it comes again: %s", event)
	}
	if event := happens("restart", "Attempt 2 goes on."); strings.Contains(event, "Attempt 1") || !strings.Contains(event, "Attempt 2 goes on.") {
		t.Errorf("the third restart: %s", event)
	}
	if len(got["/v2/enqueue"]) > 0 {
		t.Error("what merely happened is an alert event")
	}
	broken, _ := provider(t, http.StatusInternalServerError)
	n = newNotifier(t, Config{URL: notify.Secret(broken.URL)}, notify.Deps{Memory: &notifytest.Memory{}})
	if err := n.Notify(t.Context(), d); err == nil || notify.IsPermanent(err) {
		t.Errorf("a change event that is not taken: %v", err)
	}
}

func TestAnyIncidentFits(t *testing.T) {
	d := notifytest.Firing()
	d.Incident.Summary = strings.Repeat("\U0001F534\xff<", 100_000)
	d.Key = strings.Repeat("k", 300)
	for range 1000 {
		d.Incident.Timeline = append(d.Incident.Timeline, &controlv1.TimelineEntry{Action: "checkpoint", Text: strings.Repeat("x", 5000)})
		d.Group.Alerts = append(d.Group.Alerts, alert.Alert{IncidentID: "i", Labels: map[string]string{"alertname": strings.Repeat("a", 500)}})
	}
	body, err := json.Marshal(eventOf(d, routingKey, notify.Deps{}))
	if err != nil {
		t.Fatal(err)
	}
	checkEvent(t, body)
}

// desk keeps acknowledgements.
type desk struct{ got []notify.Acknowledgement }

func (d *desk) Acknowledge(_ context.Context, a notify.Acknowledgement) error {
	d.got = append(d.got, a)
	return nil
}

func TestAnAcknowledgementInPagerDutyCountsHere(t *testing.T) {
	server, _ := provider(t, 202)
	now := time.Date(2026, 3, 1, 3, 13, 0, 0, time.UTC)
	taken := &desk{}
	n := newNotifier(t, Config{URL: notify.Secret(server.URL), SigningSecret: "s1"}, notify.Deps{
		Desk: taken, Memory: &notifytest.Memory{}, Clock: func() time.Time { return now },
	})
	d := notifytest.Firing()
	if err := n.Notify(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	call := func(kind, key, secret string, at time.Time) int {
		body := []byte(`{"event":{"event_type":"` + kind + `","occurred_at":"` + at.Format(time.RFC3339) +
			`","agent":{"summary":"Ada"},"data":{"incident_key":"` + key + `"}}}`)
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("X-PagerDuty-Signature", "v1=00, "+notify.Sign("v1=", secret, body))
		w := httptest.NewRecorder()
		n.Callback().ServeHTTP(w, r)
		return w.Code
	}
	for _, test := range []struct {
		kind, key, secret string
		at                time.Time
		status, taken     int
	}{
		{"incident.acknowledged", d.Key, "wrong", now, 401, 0},
		{"incident.acknowledged", "unknown", "s1", now, 202, 0},
		{"incident.triggered", d.Key, "s1", now, 202, 0},
		{"incident.acknowledged", d.Key, "s1", now.Add(-2 * time.Hour), 202, 0},
		{"incident.acknowledged", d.Key, "s1", now, 202, 1},
	} {
		if got := call(test.kind, test.key, test.secret, test.at); got != test.status || len(taken.got) != test.taken {
			t.Errorf("%+v: status %d, %d taken", test, got, len(taken.got))
		}
	}
	want := []notify.Acknowledgement{{Key: d.Key, IncidentID: "inc-1", Receiver: "oncall", By: "Ada"}}
	if diff := cmp.Diff(want, taken.got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	over := notifytest.Resolved()
	over.Incident.Resolved = timestamppb.New(now)
	if err := n.Notify(t.Context(), over); err != nil {
		t.Fatal(err)
	}
	if call("incident.acknowledged", d.Key, "s1", now) != 202 || len(taken.got) != 1 {
		t.Error("an incident that is over was taken")
	}
}
