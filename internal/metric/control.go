package metric

// Metrics of the control plane about itself.
var (
	ControlAgents             = Def{"vigil_control_agents", "1", Gauge, nil, "Agents whose stream is open."}
	ControlFrames             = Def{"vigil_control_frames_total", "1", Counter, []string{"class", "result"}, "Frames from agents by class and result: stored, repeated, refused, held (not taken for want of memory; they come again)."}
	ControlSamples            = Def{"vigil_control_samples_total", "1", Counter, []string{"result"}, "Samples by result: stored, repeated, refused."}
	ControlSettings           = Def{"vigil_control_settings_sent_total", "1", Counter, nil, "Settings that were sent to agents that were connected, because they changed."}
	ControlBusSkipped         = Def{"vigil_control_bus_skipped_frames_total", "1", Counter, []string{"reason"}, "Frames that a reader of the bus missed: discarded by age or size before they were read, or damaged."}
	ControlBusSync            = Def{"vigil_control_bus_sync_seconds", "seconds", Histogram, nil, "Time that syncs of the embedded bus took, each of which covers all frames that were written when it began; only with bus.sync: always."}
	ControlMemoryLimit        = Def{"vigil_control_memory_limit_bytes", "bytes", Gauge, nil, "Memory that the control plane aims to stay below: memory_limit_bytes, GOMEMLIMIT, or nine tenths of the control group's limit; 0 is none."}
	ControlMemoryLive         = Def{"vigil_control_memory_live_bytes", "bytes", Gauge, nil, "Memory that is in use, garbage left out; near the limit work is refused."}
	ControlMemoryLevel        = Def{"vigil_control_memory_level", "1", Gauge, nil, "0 while memory suffices, 1 while it is short and samples and queries are refused, 2 while it is nearly gone and all work is."}
	ControlRefused            = Def{"vigil_control_refused_total", "1", Counter, []string{"work"}, "Work that was refused for want of memory, by kind: sessions, events, samples, queries, calls."}
	ControlRetention          = Def{"vigil_control_retention_seconds", "seconds", Gauge, []string{"records"}, "How long records are kept: incidents, findings, runs, events, samples; 0 is for good. Events and samples may go sooner, by size."}
	ControlExpired            = Def{"vigil_control_expired_total", "1", Counter, []string{"records"}, "Records that were let go of because they were old enough, by kind."}
	ControlEvents             = Def{"vigil_control_events_total", "1", Counter, nil, "Events that went through the pipeline."}
	ControlPipelineLag        = Def{"vigil_control_pipeline_lag_seconds", "seconds", Histogram, nil, "Time from an event's arrival until its effects are committed."}
	ControlFindings           = Def{"vigil_control_findings_total", "1", Counter, []string{"kind", "severity", "mode"}, "Findings by kind, severity and the rule's mode: on, or shadow, which opens no incident."}
	ControlDetectSeconds      = Def{"vigil_control_detect_seconds", "seconds", Histogram, []string{"kind"}, "Time from the event on its node to the finding."}
	ControlDuties             = Def{"vigil_control_duties", "1", Gauge, nil, "Duties that this replica has: partitions that it detects in, and timers."}
	ControlIncidentsFiring    = Def{"vigil_control_incidents_firing", "1", Gauge, nil, "Incidents that nobody has taken."}
	ControlNotifications      = Def{"vigil_control_notifications_total", "1", Counter, []string{"receiver", "result"}, "Notifications by receiver and result: delivered, retried, failed, deferred (put back untried)."}
	ControlNotifySeconds      = Def{"vigil_control_notify_seconds", "seconds", Histogram, []string{"receiver"}, "Time from the incident's change to the receiver's answer."}
	ControlRolledUp           = Def{"vigil_control_rolled_up_total", "1", Counter, []string{"receiver"}, "Incidents that were told together with others because too much began at once."}
	ControlReceiverFailing    = Def{"vigil_control_receiver_failing", "1", Gauge, []string{"receiver"}, "1 while a receiver takes nothing: its circuit breaker opened, or it refused several notifications in a row."}
	ControlCommands           = Def{"vigil_control_commands_total", "1", Counter, []string{"result"}, "Commands by result: sent, done, failed, expired."}
	ControlRequests           = Def{"vigil_control_requests_total", "1", Counter, []string{"method", "code"}, "Operator requests by method and gRPC code."}
	ControlDenied             = Def{"vigil_control_denied_total", "1", Counter, []string{"reason"}, "Calls that were refused by reason: unknown (no credential or a wrong one), role, scope (another project), rate, size, throttled (too many wrong credentials)."}
	ControlConnectionsRefused = Def{"vigil_control_refused_connections_total", "1", Counter, []string{"port", "reason"}, "Connections that were closed at once, by port (api, agents) and what was too many: those of the port, or of the address."}
	ControlErased             = Def{"vigil_control_erased_people_total", "1", Counter, nil, "People and other callers whose key was destroyed here, so that what records say of them cannot be read."}
	ControlReencrypted        = Def{"vigil_control_reencrypted_records_total", "1", Counter, nil, "Records and keys of people that were encrypted anew, with the records' present key."}
	ControlAuditRecords       = Def{"vigil_control_audit_records_total", "1", Counter, []string{"class"}, "Records of the audit log, by class."}
	ControlAuditRefused       = Def{"vigil_control_audit_refused_total", "1", Counter, nil, "Calls that were refused because their audit record could not be written."}
	ControlAuditAstray        = Def{"vigil_control_audit_astray", "1", Gauge, []string{"copy"}, "1 while a copy of the audit log has what the log has not: the log was cut off or changed."}
	ControlRequestSeconds     = Def{"vigil_control_request_seconds", "seconds", Histogram, []string{"method"}, "Time that operator requests took; streams count until they end."}
)

func controlDefs() []Def {
	return []Def{
		ControlAgents, ControlFrames, ControlSamples, ControlSettings, ControlBusSkipped, ControlBusSync, ControlMemoryLimit, ControlMemoryLive, ControlMemoryLevel, ControlRefused, ControlRetention, ControlExpired, ControlEvents, ControlPipelineLag,
		ControlFindings, ControlDetectSeconds, ControlDuties, ControlIncidentsFiring, ControlNotifications,
		ControlNotifySeconds, ControlRolledUp, ControlReceiverFailing, ControlCommands, ControlRequests, ControlRequestSeconds,
		ControlDenied, ControlConnectionsRefused, ControlErased, ControlReencrypted, ControlAuditRecords, ControlAuditRefused, ControlAuditAstray,
	}
}
