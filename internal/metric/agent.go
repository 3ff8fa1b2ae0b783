package metric

// Metrics of the agent about itself.
var (
	AgentCollectorUp     = Def{"vigil_agent_collector_up", "1", Gauge, []string{"collector", "status"}, "1 for the status that a collector has: ok, unsupported, unknown or stuck."}
	AgentCollectSeconds  = Def{"vigil_agent_collect_seconds", "seconds", Histogram, []string{"collector"}, "Time that one collection took."}
	AgentSpoolFrames     = Def{"vigil_agent_spool_frames", "1", Gauge, []string{"class"}, "Frames that wait for acknowledgement."}
	AgentSpoolBytes      = Def{"vigil_agent_spool_bytes", "bytes", Gauge, []string{"class"}, "Bytes that the spool holds on disk."}
	AgentSpoolDropped    = Def{"vigil_agent_spool_dropped_frames_total", "1", Counter, []string{"class"}, "Frames that a full spool dropped."}
	AgentSpoolSkipped    = Def{"vigil_agent_spool_skipped_records_total", "1", Counter, []string{"class"}, "Damaged records that the spool stepped over."}
	AgentSamples         = Def{"vigil_agent_samples_total", "1", Counter, nil, "Samples that the spool took."}
	AgentSamplesRefused  = Def{"vigil_agent_refused_samples_total", "1", Counter, []string{"reason"}, "Samples that did not reach the spool: series_limit, labels, spool."}
	AgentEventsRepeated  = Def{"vigil_agent_repeated_events_total", "1", Counter, nil, "Events that were sent again and left out because the agent had taken them."}
	AgentEventsRefused   = Def{"vigil_agent_refused_events_total", "1", Counter, nil, "Events that were left out: a trainer's word on a checkpoint that is another run's or already committed."}
	AgentPeersRefused    = Def{"vigil_agent_refused_peers_total", "1", Counter, nil, "Calls on the trainers' socket that were refused: another user's run or session, or one call too many at a time."}
	AgentConnsRefused    = Def{"vigil_agent_refused_connections_total", "1", Counter, nil, "Connections to the trainers' socket that were closed at once: there were too many, or the kernel did not say whose it was."}
	AgentReadersRefused  = Def{"vigil_agent_refused_readers_total", "1", Counter, nil, "Connections to the agent's port for metrics that were closed at once, as there were too many."}
	AgentEventsClamped   = Def{"vigil_agent_clamped_event_times_total", "1", Counter, nil, "Events whose time was more than a day off the agent's clock and was moved to that bound."}
	AgentRunsLost        = Def{"vigil_agent_lost_runs_total", "1", Counter, nil, "Runs that the agent ended because their processes went away and stayed away."}
	AgentTicks           = Def{"vigil_agent_ticks_total", "1", Counter, nil, "Times that the agent said of a trainer that no step has finished."}
	AgentAttemptsEnded   = Def{"vigil_agent_attempts_ended_total", "1", Counter, []string{"failure", "follows"}, "Launches of runs that ended on this node, by kind of failure and by what follows: restart, end."}
	AgentWeights         = Def{"vigil_agent_weights_total", "1", Counter, []string{"method", "result"}, "Times that a trainer asked for its tasks' weights, by method and by result: answered, refused."}
	AgentCommandsRefused = Def{"vigil_agent_refused_commands_total", "1", Counter, nil, "Commands that the uplink did not take because its queue was full."}
	AgentUplinkConnected = Def{"vigil_agent_uplink_connected", "1", Gauge, nil, "1 while the stream to the control plane is open."}
	AgentSettings        = Def{"vigil_agent_settings_total", "1", Counter, []string{"result"}, "Settings of the control plane that came and were others than those before: taken, or refused because they cannot be."}
	AgentUplinkSessions  = Def{"vigil_agent_uplink_sessions_total", "1", Counter, nil, "Streams that were opened to the control plane."}
	AgentTrainerEvents   = Def{"vigil_agent_trainer_events_total", "1", Counter, nil, "Events that trainers reported."}
	AgentTrainerDropped  = Def{"vigil_agent_trainer_dropped_events_total", "1", Counter, nil, "Events that trainers had to drop because the agent was away or slow."}
	AgentTrainerSessions = Def{"vigil_agent_trainer_sessions", "1", Gauge, nil, "Trainers and supervisors that are registered now."}
	AgentCommands        = Def{"vigil_agent_commands_total", "1", Counter, []string{"result"}, "Commands by result: done, failed, repeated."}
	AgentReflexes        = Def{"vigil_agent_reflexes_total", "1", Counter, []string{"cause"}, "Checkpoints that the agent ordered by itself, by cause: non_finite, preemption, gpu_fault, memory."}
	AgentReflexDropped   = Def{"vigil_agent_reflex_dropped_events_total", "1", Counter, nil, "Urgent events that the agent could not answer because too many waited."}
	AgentVaultSealed     = Def{"vigil_agent_vault_checkpoints_total", "1", Counter, []string{"result"}, "Checkpoints by result: verified, failed."}
	AgentVaultSealTime   = Def{"vigil_agent_vault_seal_seconds", "seconds", Histogram, []string{"stage"}, "Time from commit to a state: durable, verified."}
	AgentVaultRemoved    = Def{"vigil_agent_vault_removed_checkpoints_total", "1", Counter, nil, "Checkpoints that the retention policy or a person removed."}
	AgentVaultCopies     = Def{"vigil_agent_vault_copies_total", "1", Counter, []string{"result"}, "Tries to copy a rank's checkpoint into the second store, by result: done, failed, damaged (here, and not copied)."}
	AgentVaultWaiting    = Def{"vigil_agent_vault_waiting_copies", "1", Gauge, nil, "Ranks' checkpoints that wait to be copied into the second store."}
	AgentVaultSpare      = Def{"vigil_agent_vault_spare_bytes", "bytes", Gauge, nil, "Memory that is held for the next checkpoints of ranks: files of sealed ones, to be written over."}
	AgentVaultAgreements = Def{"vigil_agent_vault_agreements_total", "1", Counter, []string{"by"}, "Agreements of a rank with the others on where to go on, by what they used: control plane, files."}
	AgentVaultSealBytes  = Def{"vigil_agent_vault_sealed_bytes_total", "bytes", Counter, nil, "Bytes that were sealed."}
)

func agentDefs() []Def {
	return []Def{
		AgentCollectorUp, AgentCollectSeconds, AgentSpoolFrames, AgentSpoolBytes,
		AgentSpoolDropped, AgentSpoolSkipped, AgentSamples, AgentSamplesRefused, AgentCommandsRefused,
		AgentEventsRepeated, AgentEventsRefused, AgentPeersRefused, AgentConnsRefused, AgentReadersRefused, AgentEventsClamped, AgentRunsLost, AgentTicks, AgentAttemptsEnded, AgentWeights,
		AgentUplinkConnected, AgentSettings, AgentUplinkSessions,
		AgentTrainerEvents, AgentTrainerDropped, AgentTrainerSessions, AgentCommands,
		AgentReflexes, AgentReflexDropped, AgentVaultSealed, AgentVaultSealTime, AgentVaultSealBytes, AgentVaultRemoved, AgentVaultCopies, AgentVaultWaiting, AgentVaultSpare, AgentVaultAgreements,
	}
}
