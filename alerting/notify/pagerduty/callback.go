package pagerduty

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/fault"
)

// callFresh is how old an event may be when it comes. PagerDuty signs no time
// of its own; the event's is within what is signed.
const callFresh = time.Hour

// call is the part of a webhook (v3) that matters here.
// Source: https://developer.pagerduty.com/docs/webhooks-overview
type call struct {
	Event struct {
		Type       string    `json:"event_type"`
		OccurredAt time.Time `json:"occurred_at"`
		Agent      struct {
			Summary string `json:"summary"`
		} `json:"agent"`
		Data struct {
			IncidentKey string `json:"incident_key"`
		} `json:"data"`
	} `json:"event"`
}

// callback takes one webhook. PagerDuty sends it again after any answer that
// is not 2xx, so that what is none of ours is answered 202.
func (n *notifier) callback(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	secret, err := n.config.SigningSecret.Reveal()
	if err != nil {
		n.deps.Log.Error("PagerDuty's webhook cannot be checked", "receiver", n.deps.Receiver, "error", err)
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	if !signed(r.Header.Get("X-PagerDuty-Signature"), body, secret) {
		http.Error(w, "the signature is wrong", http.StatusUnauthorized)
		return
	}
	var c call
	if err := json.Unmarshal(body, &c); err != nil {
		http.Error(w, "the body is not a webhook of version 3", http.StatusBadRequest)
		return
	}
	age := n.deps.Now().Sub(c.Event.OccurredAt)
	if c.Event.Type != "incident.acknowledged" || age > callFresh || age < -callFresh {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if err := n.acknowledge(r, c); err != nil {
		n.deps.Log.Warn("an acknowledgement in PagerDuty did not count", "receiver", n.deps.Receiver, "error", err)
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (n *notifier) acknowledge(r *http.Request, c call) error {
	incident, err := n.deps.Recall(r.Context(), c.Event.Data.IncidentKey)
	if err != nil || incident == "" {
		return err
	}
	err = n.deps.Desk.Acknowledge(r.Context(), notify.Acknowledgement{
		Key: c.Event.Data.IncidentKey, IncidentID: incident, Receiver: n.deps.Receiver, By: c.Event.Agent.Summary,
	})
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Precondition) {
		return nil // it is over: nothing is left to take
	}
	return err
}

// signed tells whether one of the signatures is the secret's. While a secret
// is rotated there are several.
func signed(header string, body []byte, secret string) bool {
	for signature := range strings.SplitSeq(header, ",") {
		if notify.Signed("v1=", strings.TrimSpace(signature), secret, body) {
			return true
		}
	}
	return false
}
