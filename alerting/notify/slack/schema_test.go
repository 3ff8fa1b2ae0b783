package slack

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"
)

// What Slack documents of messages, written down here once more: the tests hold
// what is sent against this, not against the types that wrote it.
// Sources: https://docs.slack.dev/reference/methods/chat.postMessage,
// https://docs.slack.dev/reference/block-kit/blocks
type (
	schemaMessage struct {
		Channel     string             `json:"channel"`
		TS          string             `json:"ts"`
		ThreadTS    string             `json:"thread_ts"`
		Broadcast   bool               `json:"reply_broadcast"`
		Text        string             `json:"text"`
		Blocks      []schemaBlock      `json:"blocks"`
		Attachments []schemaAttachment `json:"attachments"`
		Metadata    *metadata          `json:"metadata"`
	}
	schemaAttachment struct {
		Color  string        `json:"color"`
		Blocks []schemaBlock `json:"blocks"`
	}
	schemaBlock struct {
		Type     string            `json:"type"`
		BlockID  string            `json:"block_id"`
		Text     *schemaText       `json:"text"`
		Fields   []schemaText      `json:"fields"`
		Elements []json.RawMessage `json:"elements"`
	}
	schemaText struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	schemaButton struct {
		Type     string     `json:"type"`
		Text     schemaText `json:"text"`
		ActionID string     `json:"action_id"`
		Value    string     `json:"value"`
		URL      string     `json:"url"`
		Style    string     `json:"style"`
	}
)

// strictly decodes JSON and refuses what the type does not know.
func strictly(t *testing.T, body []byte, into any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("decode: %v\n%s", err, body)
	}
}

// check holds a message against what Slack documents, strictly: no key that it
// does not know, no text that is empty or too long, no bare control character.
func check(t *testing.T, body []byte) schemaMessage {
	t.Helper()
	var m schemaMessage
	strictly(t, body, &m)
	checkText(t, "text", schemaText{"mrkdwn", m.Text}, 40_000)
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
	return m
}

func checkBlock(t *testing.T, b schemaBlock) {
	t.Helper()
	if len(b.BlockID) > 255 || (b.Type != "context" && b.Type != "actions" && b.Elements != nil) {
		t.Errorf("block %+v", b)
	}
	switch b.Type {
	case "header":
		if b.Text == nil || b.Text.Type != "plain_text" || b.Fields != nil {
			t.Fatalf("header %+v", b)
		}
		checkText(t, "header", *b.Text, 150)
	case "section":
		if (b.Text == nil) == (len(b.Fields) == 0) || len(b.Fields) > 10 {
			t.Errorf("section %+v", b)
		}
		if b.Text != nil {
			checkText(t, "section", *b.Text, 3000)
		}
		for _, f := range b.Fields {
			checkText(t, "field", f, 2000)
		}
	case "context":
		if len(b.Elements) == 0 || len(b.Elements) > 10 || b.Text != nil || b.Fields != nil {
			t.Errorf("context %+v", b)
		}
		for _, e := range b.Elements {
			var x schemaText
			strictly(t, e, &x)
			checkText(t, "context", x, 3000)
		}
	case "actions":
		if len(b.Elements) == 0 || len(b.Elements) > 25 || b.Text != nil || b.Fields != nil {
			t.Errorf("actions %+v", b)
		}
		for _, e := range b.Elements {
			checkButton(t, e)
		}
	default:
		t.Errorf("block of type %q", b.Type)
	}
}

func checkButton(t *testing.T, body []byte) {
	t.Helper()
	var b schemaButton
	strictly(t, body, &b)
	if b.Type != "button" || b.Text.Type != "plain_text" || b.ActionID == "" || len(b.ActionID) > 255 || len(b.Value) > 2000 || len(b.URL) > 3000 {
		t.Errorf("button %s", body)
	}
	if b.Style != "" && b.Style != "primary" && b.Style != "danger" {
		t.Errorf("style %q", b.Style)
	}
	checkText(t, "button", b.Text, 75)
}

func checkText(t *testing.T, where string, x schemaText, limit int) {
	t.Helper()
	if n := len(utf16.Encode([]rune(x.Text))); n < 1 || n > limit {
		t.Errorf("%s has %d characters, want 1 to %d", where, n, limit)
	}
	if x.Type == "plain_text" {
		return
	}
	if x.Type != "mrkdwn" {
		t.Errorf("%s is of type %q", where, x.Type)
	}
	rest := regexp.MustCompile("&(amp|lt|gt);").ReplaceAllString(x.Text, "")
	rest = regexp.MustCompile(`<https?://[^<>|&]+\|(Vigil|Run)>`).ReplaceAllString(rest, "")
	if strings.ContainsAny(rest, "&<>") {
		t.Errorf("%s has a bare control character: %q", where, rest)
	}
}
