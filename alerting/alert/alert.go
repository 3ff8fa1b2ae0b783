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
}

// Resolved tells whether the delivery says that the incident is over.
func (d Delivery) Resolved() bool {
	return d.State == controlv1.IncidentState_INCIDENT_STATE_RESOLVED
}
