package slack

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	// acknowledge is the id of the button.
	acknowledge = "vigil_acknowledge"
	// callFresh is how old a request may be, as Slack recommends.
	callFresh = 5 * time.Minute
)

// pressed is the part of an interactive request that matters here.
// Source: https://docs.slack.dev/reference/interaction-payloads/block_actions-payload
type pressed struct {
	Type string `json:"type"`
	User struct {
		ID       string `json:"id"`
		Username string `json:"username"`
		Name     string `json:"name"`
	} `json:"user"`
	Actions []struct {
		ID    string `json:"action_id"`
		Value string `json:"value"`
	} `json:"actions"`
}

// callback takes one interactive request: a button was pressed. Slack shows the
// person a warning for every answer but 200.
func (n *notifier) callback(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	secret, err := n.config.SigningSecret.Reveal()
	if err != nil {
		n.deps.Log.Error("Slack's request cannot be checked", "receiver", n.deps.Receiver, "error", err)
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	if !n.signed(r.Header, body, secret) {
		http.Error(w, "the signature is wrong or old", http.StatusUnauthorized)
		return
	}
	form, err := url.ParseQuery(string(body))
	var p pressed
	if err == nil {
		err = json.Unmarshal([]byte(form.Get("payload")), &p)
	}
	if err != nil {
		http.Error(w, "the body is not an interactive request", http.StatusBadRequest)
		return
	}
	if err := n.act(r, p); err != nil {
		n.deps.Log.Warn("an acknowledgement in Slack did not count", "receiver", n.deps.Receiver, "error", err)
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// act does what buttons say; those that only lead somewhere say nothing.
func (n *notifier) act(r *http.Request, p pressed) error {
	by := p.User.Username
	if by == "" {
		by = p.User.Name
	}
	if by == "" {
		by = p.User.ID
	}
	for _, action := range p.Actions {
		if p.Type != "block_actions" || action.ID != acknowledge || action.Value == "" {
			continue
		}
		err := n.deps.Desk.Acknowledge(r.Context(), notify.Acknowledgement{
			IncidentID: action.Value, Receiver: n.deps.Receiver, By: by,
		})
		if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Precondition) {
			continue // it is over: nothing is left to take
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// signed tells whether a request is Slack's and fresh.
// Source: https://docs.slack.dev/authentication/verifying-requests-from-slack
func (n *notifier) signed(header http.Header, body []byte, secret string) bool {
	at := header.Get("X-Slack-Request-Timestamp")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return false
	}
	age := n.deps.Now().Sub(time.Unix(seconds, 0))
	if age > callFresh || age < -callFresh {
		return false
	}
	return notify.Signed("v0=", header.Get("X-Slack-Signature"), secret, []byte("v0:"+at+":"), body)
}
