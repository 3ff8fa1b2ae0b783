package metric

// Metrics of the ports of InfiniBand and RoCE adapters.
var (
	FabricState    = Def{"vigil_fabric_port_state", "1", Gauge, []string{"device", "port"}, "State of the port: 1 down, 2 initialising, 3 armed, 4 active."}
	FabricRate     = Def{"vigil_fabric_port_rate_bits_per_second", "bits_per_second", Gauge, []string{"device", "port"}, "Rate of the link."}
	FabricReceived = Def{"vigil_fabric_port_received_bytes_total", "bytes", Counter, []string{"device", "port"}, "Bytes received."}
	FabricSent     = Def{"vigil_fabric_port_sent_bytes_total", "bytes", Counter, []string{"device", "port"}, "Bytes sent."}
	FabricWait     = Def{"vigil_fabric_port_send_wait_ticks_total", "1", Counter, []string{"device", "port"}, "Ticks in which there was something to send and no credit for it."}
	FabricDowned   = Def{"vigil_fabric_port_link_downed_total", "1", Counter, []string{"device", "port"}, "How often the link went down."}
	FabricErrors   = Def{"vigil_fabric_port_errors_total", "1", Counter, []string{"device", "port", "error"}, "Errors by the kernel's name for the counter."}
)

// Metrics of what the kernel says.
var (
	KernelRecords = Def{"vigil_kernel_records_total", "1", Counter, nil, "Records of the kernel log that were read since the agent started."}
	KernelMissed  = Def{"vigil_kernel_missed_records_total", "1", Counter, nil, "Records that the kernel had written over before they were read, since the agent started."}
	KernelFaults  = Def{"vigil_kernel_faults_total", "1", Counter, []string{"kind"}, "Faults that were found in the kernel log since the agent started."}
	KernelFolded  = Def{"vigil_kernel_folded_faults_total", "1", Counter, nil, "Those that were not reported apart because too many like them came."}
)

func fabricDefs() []Def {
	return []Def{
		FabricState, FabricRate, FabricReceived, FabricSent, FabricWait, FabricDowned, FabricErrors,
		KernelRecords, KernelMissed, KernelFaults, KernelFolded,
	}
}
