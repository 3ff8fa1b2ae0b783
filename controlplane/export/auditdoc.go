package export

import (
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
)

// auditDocument gives the document of a record of the audit log. The record's
// own bytes are in it and the signature of the log's head behind it, so that a
// copy of the log can be made of the documents again. Of a record that was let
// go of there is its hash.
func auditDocument(entry trail.Entry, key string, now time.Time) (Document, error) {
	d := Document{Stream: StreamAudit, ID: auditID(key, entry.Seq), Time: now, Received: now}
	facts := object{"audit": object{
		"log": key, "sequence": entry.Seq, "line": string(trail.AppendEntry(nil, entry)),
	}}
	if entry.Record == nil {
		d.Fields = base(now, now, StreamAudit, "event")
		d.Fields["vigil"], d.Fields["message"] = facts, "A record whose time had come and which was let go of."
		return d, nil
	}
	record, err := trail.Parse(entry.Record)
	if err != nil {
		return Document{}, err
	}
	d.Time = record.When()
	d.Fields = base(d.Time, now, StreamAudit, "event")
	event := d.Fields["event"].(object)
	event["id"], event["action"], event["sequence"], event["outcome"] = d.ID, record.Action, entry.Seq, outcomeOf(record.Outcome)
	event["reason"] = record.Outcome
	d.Fields["user"] = object{"id": record.Actor.Kind + "/" + record.Actor.ID}
	d.Fields["message"] = fmt.Sprintf("%s/%s: %s: %s", record.Actor.Kind, record.Actor.ID, record.Action, record.Outcome)
	set(facts, "run", record.Object["run_id"])
	set(facts, "incident", record.Object["incident_id"])
	facts["body"] = object{"class": string(record.Class), "auth": record.Actor.Auth, "object": record.Object, "flags": record.Flags, "request": record.Request}
	d.Fields["vigil"] = facts
	return d, nil
}

// auditID names a record among those of all logs.
func auditID(key string, seq uint64) string { return fmt.Sprintf("%s/%d", key, seq) }

// outcomeOf is an outcome in the words of the Elastic Common Schema.
func outcomeOf(outcome string) string {
	switch outcome {
	case "ok":
		return "success"
	case "begun":
		return "unknown"
	}
	return "failure"
}
