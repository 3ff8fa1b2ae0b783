package controlplane

import (
	"context"
	"strconv"
	"time"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/people"
	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// keyUsed writes into the audit log that an agent used the key that encrypts the
// keys of its checkpoints.
func (c *controlPlane) keyUsed(tx *store.Tx, event *commonv1.Event) error {
	used := event.GetKeyUsed()
	return c.audit.Append(tx, trail.Record{
		Class: trail.Key, Actor: trail.Actor{Kind: "node", ID: event.GetNode(), Auth: "certificate"},
		Action: "checkpoint keys/" + used.GetUse(), Outcome: "ok",
		Object: map[string]string{"node": event.GetNode(), "kek": used.GetKekId(), "key": used.GetKeyId()},
		Detail: map[string]string{"event": event.GetEventId(), "time": trail.Stamp(event.GetTime().AsTime()), "keys": strconv.Itoa(int(used.GetKeys()))},
	})
}

// openPeople opens the keys of the records and of people, before anything is
// written that they encrypt.
func (c *controlPlane) openPeople(ctx context.Context) (err error) {
	c.people, err = people.Open(ctx, c.config.Protection, people.Deps{Store: c.store, Audit: c.audit, Log: c.log, Metrics: c.metrics, Clock: time.Now})
	return err
}
