package slack

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// sameStory is how long after its end an incident that fires again is still
// told in the message that it had.
const sameStory = time.Hour

// shown is what is remembered of an incident's message.
type shown struct {
	Channel  string `json:"channel"` // as Slack names it
	TS       string `json:"ts"`      // the message's id in it
	Incident string `json:"incident,omitempty"`
	Entries  int    `json:"entries,omitempty"`  // of the incident's timeline that the message and its thread tell
	Severity int32  `json:"severity,omitempty"` // that was told
	Over     int64  `json:"over,omitempty"`     // when it was told that it is over, in seconds since 1970
}

// tell posts the incident's message, or changes the one that there is and
// writes into its thread what came since. A message that somebody deleted is
// posted anew.
func (n *notifier) tell(ctx context.Context, d alert.Delivery) error {
	before, err := n.recall(ctx, d)
	if err != nil {
		return err
	}
	if before.TS == "" && d.Tries > 0 { // the try before may have arrived
		before.Channel, before.TS = n.posted(ctx, d)
		if before.TS != "" {
			return n.remember(ctx, d, before)
		}
	}
	if before.TS == "" {
		return n.post(ctx, d)
	}
	m := n.compose(d)
	m.Channel, m.TS = before.Channel, before.TS
	_, err = n.call(ctx, "chat.update", m)
	if isGone(err) {
		return n.post(ctx, d)
	}
	if err != nil {
		return err
	}
	if err := n.reply(ctx, d, before); err != nil {
		return err
	}
	return n.remember(ctx, d, before)
}

// post posts an incident's message.
func (n *notifier) post(ctx context.Context, d alert.Delivery) error {
	m := n.compose(d)
	m.Channel, m.Metadata = n.config.Channel, metadataOf(d)
	a, err := n.call(ctx, "chat.postMessage", m)
	if err != nil {
		return err
	}
	return n.remember(ctx, d, shown{Channel: a.Channel, TS: a.TS})
}

// reply writes into the thread what the timeline has since the last time. The
// channel sees it too when somebody must hear of it: a change of the message
// itself calls nobody.
func (n *notifier) reply(ctx context.Context, d alert.Delivery, before shown) error {
	if d.Group.Reason == "heartbeat" {
		return nil
	}
	if before.Incident != d.Incident.GetIncidentId() {
		before.Entries = len(d.Incident.GetTimeline()) // another of the group's
	}
	if d.Tries > 0 && n.replied(ctx, d, before) {
		return nil
	}
	loud := d.Occasion == alert.Repeat || int32(d.Incident.GetSeverity()) > before.Severity && before.Severity > 0 ||
		before.Over > 0 && !d.Resolved()
	_, err := n.call(ctx, "chat.postMessage", message{
		Channel: before.Channel, ThreadTS: before.TS, Broadcast: loud, Metadata: metadataOf(d),
		Text: thread(d, before.Entries), Blocks: []block{section(thread(d, before.Entries))},
	})
	return err
}

// happened writes into the thread of an incident's message what the timeline
// has since the last time. It calls nobody, and is nothing where there is no
// message of the incident.
func (n *notifier) happened(ctx context.Context, d alert.Delivery) error {
	before, err := n.recall(ctx, d)
	if err != nil || before.TS == "" || before.Incident != d.Incident.GetIncidentId() {
		return err
	}
	lines := story(d, before.Entries)
	if len(lines) > 0 && (d.Tries == 0 || !n.replied(ctx, d, before)) {
		text := strings.Join(lines, "\n")
		_, err := n.call(ctx, "chat.postMessage", message{
			Channel: before.Channel, ThreadTS: before.TS, Metadata: metadataOf(d), Text: text, Blocks: []block{section(text)},
		})
		if isGone(err) {
			return nil // the next notification posts it anew
		}
		if err != nil {
			return err
		}
	}
	before.Entries = len(d.Incident.GetTimeline())
	return n.keep(ctx, d, before)
}

// recall gives the message of a delivery's incident; none once its story is
// over for long.
func (n *notifier) recall(ctx context.Context, d alert.Delivery) (shown, error) {
	var s shown
	text, err := n.deps.Recall(ctx, d.Key)
	if err != nil || text == "" {
		return s, err
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return shown{}, nil // not ours to mend: the message is posted anew
	}
	if s.Over > 0 && d.Created.Unix()-s.Over > int64(sameStory/time.Second) {
		return shown{}, nil
	}
	return s, nil
}

func (n *notifier) remember(ctx context.Context, d alert.Delivery, s shown) error {
	s.Incident, s.Entries, s.Severity, s.Over = d.Incident.GetIncidentId(), len(d.Incident.GetTimeline()), int32(d.Incident.GetSeverity()), 0
	if d.Resolved() {
		s.Over = d.Created.Unix()
	}
	return n.keep(ctx, d, s)
}

func (n *notifier) keep(ctx context.Context, d alert.Delivery, s shown) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fault.New(fault.Invalid, "remember Slack message: %w", err)
	}
	return n.deps.Remember(ctx, d.Key, string(text))
}

// posted finds the message that a try before posted, by its metadata; "" where
// there is none or the app may not look.
func (n *notifier) posted(ctx context.Context, d alert.Delivery) (channel, ts string) {
	a, err := n.look(ctx, "conversations.history", d, "")
	if err != nil {
		n.deps.Log.Info("cannot see whether a message arrived in Slack", "receiver", n.deps.Receiver, "error", err)
		return "", ""
	}
	for _, m := range a.Messages {
		if m.Metadata != nil && m.Metadata.Payload.Key == d.Key {
			return n.config.Channel, m.TS
		}
	}
	return "", ""
}

// replied tells whether a try before has written into the thread already.
func (n *notifier) replied(ctx context.Context, d alert.Delivery, before shown) bool {
	a, err := n.look(ctx, "conversations.replies", d, before.TS)
	if err != nil {
		return false
	}
	for _, m := range a.Messages {
		if m.Metadata != nil && m.Metadata.Payload.Delivery == d.ID {
			return true
		}
	}
	return false
}

// look lists the messages since a little before the delivery was made.
func (n *notifier) look(ctx context.Context, method string, d alert.Delivery, ts string) (answer, error) {
	query := map[string]string{
		"channel": n.config.Channel, "include_all_metadata": "true", "limit": "200",
		"oldest": strconv.FormatInt(d.Created.Add(-time.Minute).Unix(), 10),
	}
	if ts != "" {
		query["ts"] = ts
	}
	return n.read(ctx, method, query)
}

// metadataOf marks a message, so that it is found again.
func metadataOf(d alert.Delivery) *metadata {
	return &metadata{Type: "vigil_incident", Payload: mark{Key: d.Key, Delivery: d.ID}}
}

// acknowledgeable tells whether a button to acknowledge makes sense.
func (n *notifier) acknowledgeable(d alert.Delivery) bool {
	return n.config.SigningSecret != "" && d.State == controlv1.IncidentState_INCIDENT_STATE_FIRING && d.Group.Reason != "heartbeat"
}

// isGone tells whether the message that was to be changed is not there, or may
// not be changed any more.
func isGone(err error) bool {
	switch codeOf(err) {
	case "message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found":
		return true
	}
	return notify.StatusOf(err) == 404
}
