// Package alert is what a notification says: one incident in one state, for
// one receiver, and the words and numbers that every notifier needs from it.
//
// All functions are pure: they read no clock, so a notification that is sent
// twice says the same thing twice.
package alert

import (
	"time"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Delivery is one notification on its way to one receiver. It is read-only:
// several goroutines may hold the same incident.
type Delivery struct {
	// ID is the notification's id, unique for each receiver and state.
	ID string
	// Receiver is the receiver's name in the configuration.
	Receiver string
	// Key is the same for every delivery of one incident, at most 255 bytes;
	// receivers that can, use it to see a repeat as a repeat.
	Key string
	// Incident is the incident with its findings and timeline; never nil.
	Incident *controlv1.Incident
	// State is the state that the delivery tells; the incident itself may be
	// further by now.
	State controlv1.IncidentState
	// Traceparent is the W3C trace context of what caused it; may be empty.
	Traceparent string
	// Tries is how often it was tried before; 0 the first time.
	Tries int
	// Created is when the incident reached the state.
	Created time.Time
	// Since is when it was replayed after it had been given up; zero when it was
	// not.
	Since time.Time
	// StandsIn tells that another receiver should have been told and could not
	// be.
	StandsIn bool
	// Occasion is why it is told now; 0 where nobody said.
	Occasion Occasion
	// Group is what the delivery tells in Alertmanager's words. Its alerts may be
	// of several incidents; Incident is then the one that weighs most. It is
	// empty where nobody grouped: use [Delivery.Alerts].
	Group Group
}

// Occasion is why a group is told.
type Occasion int

// The occasions.
const (
	// First is the first word of a group: open what shows it.
	First Occasion = 1 + iota
	// Update is a group whose alerts are others or worse than was told.
	Update
	// Repeat is a group that goes on as it was told.
	Repeat
	// Over is a group of which nothing fires any more.
	Over
	// Story is what happened to an incident since the last time, of which nothing
	// else changed; its State is 0. Only receivers that follow are told.
	Story
)

// Group is the alerts that one delivery tells of, and what they have in common.
type Group struct {
	// Key is the same for as long as the group lives, at most 255 bytes.
	Key string
	// Labels are those by which the alerts are grouped.
	Labels map[string]string
	// Alerts are those told of, the firing ones first; never empty in a delivery
	// of a group.
	Alerts []Alert
	// Truncated is how many more alerts the group has than are told of.
	Truncated int
	// Reason names the escalation step or the rule that tells; empty for the
	// route itself.
	Reason string
}

// Alert is an incident as the routing knows it, at the moment when it was
// told.
type Alert struct {
	// IncidentID is the incident.
	IncidentID string
	// Key is the same for every delivery of this incident to this receiver, at
	// most 255 bytes: a dedup key where a receiver has one an incident.
	Key string
	// State is what is told of it.
	State controlv1.IncidentState
	// Labels are what it is routed by; Annotations are what it has to say.
	Labels, Annotations map[string]string
	// StartsAt is when it began; EndsAt when it ended, zero while it fires.
	StartsAt, EndsAt time.Time
	// GeneratorURL is where it comes from; may be empty.
	GeneratorURL string
	// Fingerprint is Alertmanager's, 16 hexadecimal digits, of the labels.
	Fingerprint string
}

// Resolved tells whether the alert is told as over.
func (a Alert) Resolved() bool { return a.State == controlv1.IncidentState_INCIDENT_STATE_RESOLVED }

// Resolved tells whether the delivery says that the incident is over.
func (d Delivery) Resolved() bool {
	return d.State == controlv1.IncidentState_INCIDENT_STATE_RESOLVED
}
