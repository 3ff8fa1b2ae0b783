package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/fault"
)

// answerBytes is how much of an answer is read: Slack sends a message back
// whole, and a list has up to 200 of them.
const answerBytes = 4 << 20

// answer is what the Web API says, as far as it matters. Every answer has HTTP
// status 200 but those of a limit and of a broken server; whether it was taken
// is in OK. Source: https://docs.slack.dev/apis/web-api
type answer struct {
	OK       bool   `json:"ok"`
	Error    string `json:"error"`
	Channel  string `json:"channel"`
	TS       string `json:"ts"`
	Messages []struct {
		TS       string    `json:"ts"`
		Metadata *metadata `json:"metadata"`
	} `json:"messages"`
}

// call makes one call that writes.
func (n *notifier) call(ctx context.Context, method string, m message) (answer, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return answer{}, notify.Permanent(fmt.Errorf("write Slack message: %w", err))
	}
	return n.send(ctx, notify.Post{Path: method, Body: body})
}

// read makes one call that reads.
func (n *notifier) read(ctx context.Context, method string, query map[string]string) (answer, error) {
	values := url.Values{}
	for name, value := range query {
		values.Set(name, value)
	}
	return n.send(ctx, notify.Post{Method: http.MethodGet, Path: method, Query: values})
}

// send makes one call and reads what Slack says to it. An answer that cannot
// be read says nothing: it is tried again.
func (n *notifier) send(ctx context.Context, post notify.Post) (answer, error) {
	post.URL, post.AnswerBytes = n.config.APIURL, answerBytes
	post.Headers = map[string]notify.Secret{
		"Authorization": "Bearer " + n.config.Token, "Content-Type": "application/json; charset=utf-8",
	}
	deps := n.deps
	deps.Answered = nil // the status alone says nothing
	reply, err := post.Send(ctx, deps)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(reply.Body, &a); err != nil {
		return answer{}, fault.New(fault.Unavailable, "post to Slack: its answer is not one of the Web API")
	}
	if !a.OK {
		return a, refused(a.Error)
	}
	n.deps.Say(post.Path + " ok")
	return a, nil
}

// apiError is an error that Slack names.
type apiError struct {
	code string
	err  error
}

// Error names it.
func (e *apiError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *apiError) Unwrap() error { return e.err }

// codeOf gives the code of an error that Slack named, "" for others.
func codeOf(err error) string {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e.code
	}
	return ""
}

// refused turns an error's code into the error that says what to do. What
// Slack's own trouble is can be tried again; the rest, such as a channel that
// there is not, cannot.
func refused(code string) error {
	text := code
	if len(text) > 64 || text == "" {
		text = "an unknown error"
	}
	switch code {
	case "ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org":
		return &apiError{code, fault.New(fault.Unavailable, "post to Slack: it answered %s", text)}
	}
	return notify.Permanent(&apiError{code, fault.New(fault.Invalid, "post to Slack: it answered %s", text)})
}
