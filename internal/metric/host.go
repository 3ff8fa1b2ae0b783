package metric

// Metrics of a node's machine.
var (
	HostCPUBusy          = Def{"vigil_host_cpu_busy_ratio", "ratio", Gauge, nil, "Share of all CPUs' time that was not idle since the last sample, 0 to 1."}
	HostLoad1            = Def{"vigil_host_load1", "1", Gauge, nil, "Load average of the last minute, in runnable tasks."}
	HostMemoryTotal      = Def{"vigil_host_memory_total_bytes", "bytes", Gauge, nil, "Memory of the machine."}
	HostMemoryAvailable  = Def{"vigil_host_memory_available_bytes", "bytes", Gauge, nil, "Memory that new work can have without swapping."}
	HostDiskTotal        = Def{"vigil_host_disk_total_bytes", "bytes", Gauge, []string{"mount"}, "Size of a file system."}
	HostDiskAvailable    = Def{"vigil_host_disk_available_bytes", "bytes", Gauge, []string{"mount"}, "Space of a file system that an unprivileged user can have."}
	HostDiskRead         = Def{"vigil_host_disk_read_bytes_total", "bytes", Counter, []string{"device"}, "Bytes read from a block device."}
	HostDiskWritten      = Def{"vigil_host_disk_written_bytes_total", "bytes", Counter, []string{"device"}, "Bytes written to a block device."}
	HostNetReceived      = Def{"vigil_host_network_received_bytes_total", "bytes", Counter, []string{"interface"}, "Bytes received on a network interface."}
	HostNetSent          = Def{"vigil_host_network_sent_bytes_total", "bytes", Counter, []string{"interface"}, "Bytes sent on a network interface."}
	HostNetReceiveErrors = Def{"vigil_host_network_receive_errors_total", "1", Counter, []string{"interface"}, "Packets that a network interface received with an error."}
	HostNetSendErrors    = Def{"vigil_host_network_send_errors_total", "1", Counter, []string{"interface"}, "Packets that a network interface could not send."}
)

func hostDefs() []Def {
	return []Def{
		HostCPUBusy, HostLoad1, HostMemoryTotal, HostMemoryAvailable,
		HostDiskTotal, HostDiskAvailable, HostDiskRead, HostDiskWritten,
		HostNetReceived, HostNetSent, HostNetReceiveErrors, HostNetSendErrors,
	}
}
