package metric

// Metrics of the control plane of what waits in it, and of its records.
var (
	ControlOutboxWaiting  = Def{"vigil_control_outbox_notifications", "1", Gauge, []string{"receiver", "state"}, "Notifications that wait for a receiver (waiting), and those that were given up (dead)."}
	ControlOutboxOldest   = Def{"vigil_control_outbox_oldest_seconds", "seconds", Gauge, []string{"receiver"}, "How long ago the oldest notification was made that waits for a receiver."}
	ControlCommandsOpen   = Def{"vigil_control_commands_open", "1", Gauge, nil, "Commands that their agents have not answered."}
	ControlBusFrames      = Def{"vigil_control_bus_frames", "1", Gauge, nil, "Frames that the bus keeps."}
	ControlBusBytes       = Def{"vigil_control_bus_bytes", "bytes", Gauge, nil, "Size of the frames that the bus keeps."}
	ControlPipelineBehind = Def{"vigil_control_pipeline_behind_seconds", "seconds", Gauge, []string{"pipeline"}, "How long ago the frames came that a pipeline works on; 0 while it has none, or another replica runs it."}
	ControlStoreSeconds   = Def{"vigil_control_store_seconds", "seconds", Histogram, []string{"kind"}, "Time that transactions took that write or read, their waits and repetitions included."}
)

func backlogDefs() []Def {
	return []Def{
		ControlOutboxWaiting, ControlOutboxOldest, ControlCommandsOpen, ControlBusFrames, ControlBusBytes, ControlPipelineBehind, ControlStoreSeconds,
	}
}
