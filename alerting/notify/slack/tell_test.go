package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/notify/notifytest"
	"github.com/vigil-ml/vigil/alerting/template"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const botToken = "xoxb-s3cret-SECRET-token"

// workspace is a Slack that keeps its messages and takes only what Slack
// documents.
type workspace struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	messages []schemaMessage
	calls    []string
	// fail answers the next calls of a method with an error's code; lost takes
	// the next ones and then breaks the connection.
	fail, lost map[string]string
}

func newWorkspace(t *testing.T) *workspace {
	w := &workspace{t: t, fail: map[string]string{}, lost: map[string]string{}}
	w.Server = httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(w.Close)
	return w
}

func (w *workspace) serve(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	method := strings.TrimPrefix(r.URL.Path, "/api/")
	w.calls = append(w.calls, method)
	if r.Header.Get("Authorization") != "Bearer "+botToken {
		w.answer(out, map[string]any{"ok": false, "error": "invalid_auth"})
		return
	}
	if code := w.fail[method]; code != "" {
		delete(w.fail, method)
		w.answer(out, map[string]any{"ok": false, "error": code})
		return
	}
	reply := map[string]any{"ok": false, "error": "unknown_method"}
	switch method {
	case "chat.postMessage", "chat.update":
		if kind := r.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
			w.t.Errorf("%s with Content-Type %q", method, kind)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.t.Error(err)
		}
		reply = w.take(method, check(w.t, body))
	case "conversations.history", "conversations.replies":
		reply = w.list(r.URL.Query())
	}
	if w.lost[method] != "" {
		delete(w.lost, method)
		panic(http.ErrAbortHandler)
	}
	w.answer(out, reply)
}

func (w *workspace) answer(out http.ResponseWriter, reply map[string]any) {
	out.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err := json.NewEncoder(out).Encode(reply); err != nil {
		w.t.Error(err)
	}
}

func (w *workspace) take(method string, m schemaMessage) map[string]any {
	if m.Channel != "C1" {
		return map[string]any{"ok": false, "error": "channel_not_found"}
	}
	if method == "chat.postMessage" {
		m.TS = fmt.Sprintf("1772334729.%06d", len(w.messages)+1)
		w.messages = append(w.messages, m)
		return map[string]any{"ok": true, "channel": m.Channel, "ts": m.TS, "message": m}
	}
	for n := range w.messages {
		if w.messages[n].TS == m.TS {
			m.Metadata, m.ThreadTS = w.messages[n].Metadata, w.messages[n].ThreadTS
			w.messages[n] = m
			return map[string]any{"ok": true, "channel": m.Channel, "ts": m.TS, "text": m.Text}
		}
	}
	return map[string]any{"ok": false, "error": "message_not_found"}
}

func (w *workspace) list(query url.Values) map[string]any {
	found := []schemaMessage{}
	for _, m := range slices.Backward(w.messages) {
		if m.ThreadTS == query.Get("ts") && query.Get("include_all_metadata") == "true" {
			found = append(found, m)
		}
	}
	return map[string]any{"ok": true, "messages": found}
}

func (w *workspace) notifier(deps notify.Deps) notify.Notifier {
	client := &http.Client{Transport: &http.Transport{}}
	w.t.Cleanup(client.CloseIdleConnections)
	deps.HTTPClient, deps.Receiver, deps.Log = client, "oncall", slog.New(slog.DiscardHandler)
	if deps.Memory == nil {
		deps.Memory = &notifytest.Memory{}
	}
	n, err := New(Config{Token: botToken, Channel: "C1", APIURL: notify.Secret(w.URL + "/api"), SigningSecret: "s"}, deps)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// seen gives the messages of the channel and their threads: "root", "reply", or
// "loud" for a reply that the channel sees, with the text's first words.
func (w *workspace) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, m := range w.messages {
		kind := "root"
		if m.ThreadTS != "" {
			kind = "reply"
		}
		if m.Broadcast {
			kind = "loud"
		}
		words := strings.Fields(strings.ReplaceAll(m.Text, "*", ""))
		all = append(all, kind+" "+strings.Join(words[:2], " "))
	}
	return all
}

func TestWebAPIConformance(t *testing.T) {
	notifytest.Run(t, notifytest.Suite{
		New: func(t *testing.T, url string, deps notify.Deps) notify.Notifier {
			n, err := New(Config{Token: botToken, Channel: "C1", APIURL: notify.Secret(url)}, deps)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Key: func(t *testing.T, r notifytest.Request) string {
			return check(t, r.Body).Metadata.Payload.Key
		},
		Success: `{"ok":true,"channel":"C1","ts":"1.2"}`, Reads: true,
	})
}

// states gives the deliveries of an incident's life.
func states() (first, taken, worse, over, again alert.Delivery) {
	first = notifytest.Firing()
	first.Occasion = alert.First
	first.Incident.Severity = commonv1.Severity_SEVERITY_WARNING
	next := func(d alert.Delivery, id, action, text string) alert.Delivery {
		copied := notifytest.Resolved()
		copied.ID, copied.Incident.Timeline = id, append(slices.Clone(d.Incident.Timeline),
			&controlv1.TimelineEntry{Action: action, Text: text, Time: timestamppb.New(d.Created)},
			&controlv1.TimelineEntry{Action: "notified", Text: "not for the thread"})
		copied.Occasion = alert.Update
		return copied
	}
	taken = next(first, "d2", "acknowledged", "ada took it.")
	taken.State, taken.Incident.Severity = controlv1.IncidentState_INCIDENT_STATE_ACKNOWLEDGED, first.Incident.Severity
	worse = next(taken, "d3", "finding", "Now it diverges.")
	worse.State = controlv1.IncidentState_INCIDENT_STATE_FIRING
	over = next(worse, "d4", "resolved", "Attempt 1 passed it.")
	over.Occasion = alert.Over
	again = next(over, "d5", "reopened", "It came again.")
	again.State, again.Occasion = controlv1.IncidentState_INCIDENT_STATE_FIRING, alert.First
	return first, taken, worse, over, again
}

// TestOneMessageForAnIncident: it is changed in place, its thread has what
// happened, and only what somebody must hear of is told to the channel again.
func TestOneMessageForAnIncident(t *testing.T) {
	w := newWorkspace(t)
	n := w.notifier(notify.Deps{})
	first, taken, worse, over, again := states()
	tell := func(d alert.Delivery) {
		t.Helper()
		if err := n.Notify(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []alert.Delivery{first, taken, worse, over, again} {
		tell(d)
	}
	want := []string{"root Critical: nonfinite", "reply Warning: nonfinite", "loud Critical: nonfinite", "reply Resolved: nonfinite", "loud Critical: nonfinite"}
	if diff := cmp.Diff(want, w.seen()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if text := w.messages[3].Text; !strings.Contains(text, "Attempt 1 passed it.") || strings.Contains(text, "not for the thread") || strings.Contains(text, "took it") {
		t.Errorf("the thread's reply: %s", text)
	}
	// Much later it is another story.
	tell(over)
	later := again
	later.ID, later.Created = "d6", over.Created.Add(2*sameStory)
	tell(later)
	if seen := w.seen(); seen[len(seen)-1] != "root Critical: nonfinite" {
		t.Errorf("told in %q, want a message of its own", seen[len(seen)-1])
	}
}

// TestAThreadGrowsAsThingsHappen: what happens between notifications is in the
// thread, once, and the message and the channel are left alone.
func TestAThreadGrowsAsThingsHappen(t *testing.T) {
	w := newWorkspace(t)
	n := w.notifier(notify.Deps{})
	tell := func(d alert.Delivery) {
		t.Helper()
		if err := n.Notify(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	happened := notifytest.Firing()
	happened.ID, happened.State, happened.Occasion = "story-1", 0, alert.Story
	tell(happened) // there is no message yet
	first := notifytest.Firing()
	tell(first)
	happened.Incident.Timeline = append(happened.Incident.Timeline,
		&controlv1.TimelineEntry{Action: "restart", Text: "Attempt 1 goes on."}, &controlv1.TimelineEntry{Action: "notified", Text: "not for the thread"})
	tell(happened)
	again := happened
	again.ID = "story-2"
	tell(again) // nothing is new
	if diff := cmp.Diff([]string{"root Critical: nonfinite", "reply Attempt 1"}, w.seen()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	over := notifytest.Resolved()
	over.Incident.Timeline = append(slices.Clone(happened.Incident.Timeline), &controlv1.TimelineEntry{Action: "resolved", Text: "It is past it."})
	tell(over)
	if text := w.messages[len(w.messages)-1].Text; !strings.Contains(text, "It is past it.") || strings.Contains(text, "Attempt 1 goes on.") {
		t.Errorf("what was in the thread is said again: %s", text)
	}
}

// TestWhatACrashLeftUnclear: a delivery that arrived although nobody knows is
// found and not said twice.
func TestWhatACrashLeftUnclear(t *testing.T) {
	first, taken, _, _, _ := states()
	for name, lose := range map[string]func(w *workspace) alert.Delivery{
		"the first message": func(w *workspace) alert.Delivery {
			w.lost["chat.postMessage"] = "yes"
			return first
		},
		"the reply": func(w *workspace) alert.Delivery {
			w.lost["chat.postMessage"] = "yes"
			return taken
		},
	} {
		w := newWorkspace(t)
		n := w.notifier(notify.Deps{})
		if name == "the reply" {
			if err := n.Notify(t.Context(), first); err != nil {
				t.Fatal(err)
			}
		}
		d := lose(w)
		if err := n.Notify(t.Context(), d); err == nil || notify.IsPermanent(err) {
			t.Fatalf("%s: the lost answer is no error to be tried again: %v", name, err)
		}
		before := len(w.seen())
		d.Tries = 1
		if err := n.Notify(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if got := w.seen(); len(got) != before {
			t.Errorf("%s was said twice: %q", name, got)
		}
		over := notifytest.Resolved()
		if err := n.Notify(t.Context(), over); err != nil {
			t.Fatal(err)
		}
		if w.seen()[0] != "root Resolved: nonfinite" {
			t.Errorf("%s: the message found is not the one that is changed: %q", name, w.seen())
		}
	}
}

func TestWhatSlackRefuses(t *testing.T) {
	first, taken, _, _, _ := states()
	for code, permanent := range map[string]bool{
		"channel_not_found": true, "invalid_auth": true, "invalid_blocks": true, "": true, "ratelimited": false, "internal_error": false,
	} {
		if err := refused(code); notify.IsPermanent(err) != permanent {
			t.Errorf("%q: permanent = %v: %v", code, !permanent, err)
		}
	}
	w := newWorkspace(t)
	n := w.notifier(notify.Deps{})
	if err := n.Notify(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	w.fail["chat.update"] = "message_not_found" // somebody deleted it
	if err := n.Notify(t.Context(), taken); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"root Warning: nonfinite", "root Warning: nonfinite"}, w.seen()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	w.fail["conversations.history"] = "missing_scope"
	other := first
	other.Key, other.Tries = "other", 1
	if err := n.Notify(t.Context(), other); err != nil || len(w.seen()) != 3 {
		t.Errorf("an app that may not look: %v, %q", err, w.seen())
	}
	broken := w.notifier(notify.Deps{Memory: brokenMemory{}})
	if err := broken.Notify(t.Context(), first); err == nil || notify.IsPermanent(err) {
		t.Errorf("a memory that is away: %v", err)
	}
}

type brokenMemory struct{ *notifytest.Memory }

func (brokenMemory) Recall(_ context.Context, _ string) (string, error) {
	return "", errors.New("away")
}

func TestAnAcknowledgementInSlackCountsHere(t *testing.T) {
	now := time.Date(2026, 3, 1, 3, 13, 0, 0, time.UTC)
	taken := &desk{}
	n := newWorkspace(t).notifier(notify.Deps{Desk: taken, Clock: func() time.Time { return now }}).(*notifier)
	press := func(payload, secret string, at time.Time) int {
		body := url.Values{"payload": {payload}}.Encode()
		stamp := fmt.Sprint(at.Unix())
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("X-Slack-Request-Timestamp", stamp)
		r.Header.Set("X-Slack-Signature", notify.Sign("v0=", secret, []byte("v0:"+stamp+":"+body)))
		rec := httptest.NewRecorder()
		n.Callback().ServeHTTP(rec, r)
		return rec.Code
	}
	// The button of the message itself is what is pressed.
	var value string
	for _, b := range n.compose(notifytest.Firing()).Attachments[0].Blocks {
		for _, e := range b.Elements {
			if b, ok := e.(button); ok {
				value = b.Value
			}
		}
	}
	good := `{"type":"block_actions","user":{"id":"U1","username":"ada"},"actions":[{"action_id":"vigil_acknowledge","value":"` + value + `"}]}`
	for _, test := range []struct {
		name, payload, secret string
		at                    time.Time
		status, taken         int
	}{
		{"another's secret", good, "wrong", now, 401, 0},
		{"old", good, "s", now.Add(-6 * time.Minute), 401, 0},
		{"from the future", good, "s", now.Add(6 * time.Minute), 401, 0},
		{"no JSON", "{", "s", now, 400, 0},
		{"another button", strings.Replace(good, "vigil_ack", "other_ack", 1), "s", now, 200, 0},
		{"good", good, "s", now, 200, 1},
	} {
		if got := press(test.payload, test.secret, test.at); got != test.status || len(taken.got) != test.taken {
			t.Errorf("%s: status %d, %d taken; want %d, %d", test.name, got, len(taken.got), test.status, test.taken)
		}
	}
	want := []notify.Acknowledgement{{IncidentID: "inc-1", Receiver: "oncall", By: "ada"}}
	if diff := cmp.Diff(want, taken.got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	taken.err = errors.New("away")
	if got := press(good, "s", now); got != http.StatusServiceUnavailable {
		t.Errorf("a desk that is away: %d", got)
	}
	n.config.SigningSecret = ""
	if n.Callback() != nil || n.acknowledgeable(notifytest.Firing()) {
		t.Error("without a secret there is a button")
	}
}

// desk keeps acknowledgements.
type desk struct {
	got []notify.Acknowledgement
	err error
}

func (d *desk) Acknowledge(_ context.Context, a notify.Acknowledgement) error {
	if d.err == nil {
		d.got = append(d.got, a)
	}
	return d.err
}

// TestWhatATemplateFillsInIsHarmless: whoever names a run or writes an
// annotation cannot call a channel, nor end a heading.
func TestWhatATemplateFillsInIsHarmless(t *testing.T) {
	templates, err := template.Load()
	if err != nil {
		t.Fatal(err)
	}
	d := notifytest.Firing()
	d.Incident.RunId = "<!channel> & \n<http://evil|click>"
	n := &notifier{
		config: Config{Title: "{{ .CommonLabels.run }}", Text: "*{{ .CommonLabels.run }}* in {{ .CommonLabels.node | toUpper }}"},
		deps: notify.Deps{Log: slog.New(slog.DiscardHandler), Fill: func(text string, d alert.Delivery) (string, error) {
			return templates.Text(text, d, "")
		}},
	}
	m := n.compose(d)
	check(t, marshal(t, m))
	if got := m.Blocks[1].Text.Text; got != "*&lt;!channel&gt; &amp; \n&lt;http://evil|click&gt;* in GPU-07" {
		t.Errorf("text %q", got)
	}
}
