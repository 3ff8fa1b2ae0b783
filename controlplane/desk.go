package controlplane

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/metrics"
	"github.com/vigil-ml/vigil/controlplane/store"
)

// troubleFor is how long the incident about a failing receiver or exporter stands without
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
	return d.trouble(ctx, "receiver-failing", "receiver", receiver, failing("Receiver "+receiver+" takes no notifications: "+cause, since, d.clock()))
}

// ReceiverWell ends it.
func (d *desk) ReceiverWell(ctx context.Context, receiver string, at time.Time) error {
	return d.trouble(ctx, "receiver-failing", "receiver", receiver, over(at))
}

// failing is the begin of trouble, over its end.
func failing(summary string, since, now time.Time) incident.External {
	return incident.External{
		Annotations: map[string]string{"summary": summary}, Starts: since, Ends: now.Add(troubleFor),
	}
}

func over(at time.Time) incident.External { return incident.External{Ends: at} }

// trouble opens or ends an incident about a part of the control plane.
func (d *desk) trouble(ctx context.Context, kind, part, name string, e incident.External) error {
	e.Labels = map[string]string{alert.LabelName: kind, part: name, alert.LabelSeverity: "critical"}
	return d.store.Update(ctx, func(tx *store.Tx) error { return d.incidents.Externals(ctx, tx, e) })
}

// rules makes the alerts of rules into findings and incidents.
func (d *desk) rules(ctx context.Context, alerts []metrics.Alert) error {
	var all []incident.Ruled
	for _, a := range alerts {
		all = append(all, incident.Ruled{Value: a.Value, External: incident.External{
			Labels: a.Labels, Annotations: a.Annotations, Starts: a.Starts, Ends: a.Ends, GeneratorURL: a.GeneratorURL,
		}})
	}
	return d.store.Update(ctx, func(tx *store.Tx) error { return d.incidents.Ruled(ctx, tx, all...) })
}
