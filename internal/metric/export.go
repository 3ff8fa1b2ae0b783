package metric

// Metrics of the control plane's exporters.
var (
	ControlExportDocuments = Def{"vigil_control_export_documents_total", "1", Counter, []string{"exporter", "stream", "result"}, "Documents by exporter, stream and result: taken, repeated (were there already), refused, expired; the last two are dead letters."}
	ControlExportRetries   = Def{"vigil_control_export_retries_total", "1", Counter, []string{"exporter"}, "Batches that an exporter tried again."}
	ControlExportFailing   = Def{"vigil_control_export_failing", "1", Gauge, []string{"exporter"}, "1 while an exporter takes nothing."}
	ControlExportLag       = Def{"vigil_control_export_lag_seconds", "seconds", Gauge, []string{"exporter"}, "How old the oldest document is that an exporter has under way; 0 while it has none."}
	ControlExportDead      = Def{"vigil_control_export_dead_letter_bytes", "bytes", Gauge, []string{"exporter"}, "Size of an exporter's dead letters."}
	ControlExportDropped   = Def{"vigil_control_export_dead_letters_dropped_total", "1", Counter, []string{"exporter"}, "Dead letters that had to go because their file was full, the oldest first."}
	ControlTelemetryLost   = Def{"vigil_control_telemetry_lost_batches_total", "1", Counter, []string{"reason"}, "Batches of what the control plane says of itself that were lost: unkept (the store did not take them), bound (too much waited for an exporter)."}

	ControlForwardSamples = Def{"vigil_control_forward_samples_total", "1", Counter, []string{"store", "result"}, "Samples that were sent on by remote write, by store and result: taken, or refused for good."}
	ControlForwardRetries = Def{"vigil_control_forward_retries_total", "1", Counter, []string{"store"}, "Requests of remote write that were tried again."}
	ControlForwardBehind  = Def{"vigil_control_forward_behind_seconds", "seconds", Gauge, []string{"store"}, "How long ago a store had last taken all there was; 0 while it has all."}
	ControlReceiveDropped = Def{"vigil_control_remote_write_dropped_samples_total", "1", Counter, nil, "Samples that came by remote write under a name of Vigil's own, and were left out."}
)

func exportDefs() []Def {
	return []Def{
		ControlExportDocuments, ControlExportRetries, ControlExportFailing, ControlExportLag, ControlExportDead, ControlExportDropped, ControlTelemetryLost,
		ControlForwardSamples, ControlForwardRetries, ControlForwardBehind, ControlReceiveDropped,
	}
}
