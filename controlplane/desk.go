package controlplane

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/store"
)

// troubleFor is how long the incident about a failing receiver stands without
// being ended: a control plane that was restarted does not know of it.
const troubleFor = 24 * time.Hour

// desk brings to the incidents what alerting has to say: that a person
// acknowledged through a receiver, and that a receiver fails. Incidents is set
// before anything runs.
type desk struct {
	store     *store.Store
	clock     func() time.Time
	incidents *incident.Engine
}

// Acknowledge says that a person took an incident.
func (d *desk) Acknowledge(ctx context.Context, a notify.Acknowledgement) error {
	return d.store.Update(ctx, func(tx *store.Tx) error {
		return d.incidents.Acknowledge(ctx, tx, incident.Act{IncidentID: a.IncidentID, Author: a.By + " (" + a.Receiver + ")"})
	})
}

// ReceiverFailing opens an incident about a receiver.
func (d *desk) ReceiverFailing(ctx context.Context, receiver, cause string, since time.Time) error {
	return d.external(ctx, receiver, incident.External{
		Annotations: map[string]string{"summary": "Receiver " + receiver + " takes no notifications: " + cause},
		Starts:      since, Ends: d.clock().Add(troubleFor),
	})
}

// ReceiverWell ends it.
func (d *desk) ReceiverWell(ctx context.Context, receiver string, at time.Time) error {
	return d.external(ctx, receiver, incident.External{Ends: at})
}

func (d *desk) external(ctx context.Context, receiver string, e incident.External) error {
	e.Labels = map[string]string{alert.LabelName: "receiver-failing", "receiver": receiver, alert.LabelSeverity: "critical"}
	return d.store.Update(ctx, func(tx *store.Tx) error { return d.incidents.External(ctx, tx, e) })
}
