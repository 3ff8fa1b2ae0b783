package metric

// Metrics of a node's machine: processors and tasks.
var (
	HostCPUBusy       = Def{"vigil_host_cpu_busy_ratio", "ratio", Gauge, nil, "Share of all CPUs' time that was not idle since the last sample, 0 to 1."}
	HostCPUSeconds    = Def{"vigil_host_cpu_seconds_total", "seconds", Counter, []string{"mode"}, "Time of all CPUs since the machine started, by mode: user, nice, system, idle, iowait, irq, softirq, steal."}
	HostCoreSeconds   = Def{"vigil_host_core_seconds_total", "seconds", Counter, []string{"cpu", "mode"}, "Time of one CPU since the machine started, by mode; only with per_core."}
	HostLoad1         = Def{"vigil_host_load1", "1", Gauge, nil, "Load average of the last minute, in runnable tasks."}
	HostLoad5         = Def{"vigil_host_load5", "1", Gauge, nil, "Load average of the last five minutes."}
	HostLoad15        = Def{"vigil_host_load15", "1", Gauge, nil, "Load average of the last fifteen minutes."}
	HostTasks         = Def{"vigil_host_tasks", "1", Gauge, nil, "Processes and threads that there are."}
	HostTasksRunnable = Def{"vigil_host_runnable_tasks", "1", Gauge, nil, "Tasks that run or wait for a CPU."}
	HostTasksBlocked  = Def{"vigil_host_blocked_tasks", "1", Gauge, nil, "Tasks that wait for input or output to end."}
	HostTasksStuck    = Def{"vigil_host_uninterruptible_processes", "1", Gauge, nil, "Processes in state D, which no signal reaches; kind tasks."}
	HostContexts      = Def{"vigil_host_context_switches_total", "1", Counter, nil, "Context switches since the machine started."}
	HostForks         = Def{"vigil_host_forks_total", "1", Counter, nil, "Tasks that were started since the machine started."}
	HostStarted       = Def{"vigil_host_boot_time_seconds", "seconds", Gauge, nil, "When the machine started, in seconds since 1970."}
	HostUptime        = Def{"vigil_host_uptime_seconds", "seconds", Gauge, nil, "Time since the machine started."}
	HostFiles         = Def{"vigil_host_open_files", "1", Gauge, nil, "File descriptions that the kernel has open."}
	HostFilesMax      = Def{"vigil_host_open_files_limit", "1", Gauge, nil, "Most file descriptions that the kernel opens."}
	HostStall         = Def{"vigil_host_stall_seconds_total", "seconds", Counter, []string{"resource", "scope"}, "Time in which some or all (full) tasks waited for cpu, memory, io or irq; the kernel's pressure."}
	HostClockOffset   = Def{"vigil_host_clock_offset_seconds", "seconds", Gauge, nil, "What the clock still has to be moved by, as its time service knows it; positive when the clock is ahead."}
	HostClockError    = Def{"vigil_host_clock_error_bound_seconds", "seconds", Gauge, nil, "Most that the clock can be off, as its time service knows it."}
	HostClockSynced   = Def{"vigil_host_clock_synchronised", "1", Gauge, nil, "1 while a time service keeps the clock."}
	HostEnergy        = Def{"vigil_host_energy_joules_total", "joules", Counter, []string{"zone"}, "Energy that a part of the machine used since the agent began to look (RAPL)."}
)

// Metrics of a node's machine: memory.
var (
	HostMemoryTotal     = Def{"vigil_host_memory_total_bytes", "bytes", Gauge, nil, "Memory of the machine."}
	HostMemoryFree      = Def{"vigil_host_memory_free_bytes", "bytes", Gauge, nil, "Memory that nothing uses."}
	HostMemoryAvailable = Def{"vigil_host_memory_available_bytes", "bytes", Gauge, nil, "Memory that new work can have without swapping."}
	HostMemoryBuffers   = Def{"vigil_host_memory_buffers_bytes", "bytes", Gauge, nil, "Memory with raw blocks of devices."}
	HostMemoryCached    = Def{"vigil_host_memory_cached_bytes", "bytes", Gauge, nil, "Memory with content of files, shared memory included."}
	HostMemoryShared    = Def{"vigil_host_memory_shared_bytes", "bytes", Gauge, nil, "Shared memory and tmpfs."}
	HostMemoryAnonymous = Def{"vigil_host_memory_anonymous_bytes", "bytes", Gauge, nil, "Memory of processes that no file stands behind."}
	HostMemoryDirty     = Def{"vigil_host_memory_dirty_bytes", "bytes", Gauge, nil, "Content of files that waits to be written."}
	HostMemoryWriteback = Def{"vigil_host_memory_writeback_bytes", "bytes", Gauge, nil, "Content of files that is being written."}
	HostMemoryKernel    = Def{"vigil_host_memory_unreclaimable_slab_bytes", "bytes", Gauge, nil, "The kernel's own memory that it cannot give back."}
	HostMemoryPinned    = Def{"vigil_host_memory_unevictable_bytes", "bytes", Gauge, nil, "Memory that cannot be moved out."}
	HostMemoryCommitted = Def{"vigil_host_memory_committed_bytes", "bytes", Gauge, nil, "Memory that was promised to processes."}
	HostSwapTotal       = Def{"vigil_host_swap_total_bytes", "bytes", Gauge, nil, "Swap of the machine."}
	HostSwapFree        = Def{"vigil_host_swap_free_bytes", "bytes", Gauge, nil, "Swap that nothing uses."}
	HostSwapIn          = Def{"vigil_host_swap_in_bytes_total", "bytes", Counter, nil, "Bytes that came back from swap since the machine started."}
	HostSwapOut         = Def{"vigil_host_swap_out_bytes_total", "bytes", Counter, nil, "Bytes that went to swap since the machine started."}
	HostMajorFaults     = Def{"vigil_host_major_page_faults_total", "1", Counter, nil, "Page faults since the machine started that had to wait for a device."}
	HostOOMKills        = Def{"vigil_host_oom_kills_total", "1", Counter, nil, "Processes since the machine started that the kernel killed for want of memory."}
	HostHugeTotal       = Def{"vigil_host_hugepages_total_bytes", "bytes", Gauge, nil, "Memory set aside for huge pages of the default size."}
	HostHugeFree        = Def{"vigil_host_hugepages_free_bytes", "bytes", Gauge, nil, "What of it nothing uses."}
	HostHugeReserved    = Def{"vigil_host_hugepages_reserved_bytes", "bytes", Gauge, nil, "What of it was promised to programs that have not touched it yet."}
	HostHugeSurplus     = Def{"vigil_host_hugepages_surplus_bytes", "bytes", Gauge, nil, "Huge pages beyond those that were set aside, which the kernel made because programs asked for them."}
	HostHugeSize        = Def{"vigil_host_hugepages_size_bytes", "bytes", Gauge, nil, "Size of a huge page of the default size."}
	HostHugeAnonymous   = Def{"vigil_host_transparent_hugepages_bytes", "bytes", Gauge, nil, "Anonymous memory in transparent huge pages."}
)

// Metrics of a node's machine: disks and networks.
var (
	HostDiskInfo         = Def{"vigil_host_disk_info", "1", Gauge, []string{"mount", "device", "type"}, "1 for what a file system is mounted from, and its type."}
	HostDiskTotal        = Def{"vigil_host_disk_total_bytes", "bytes", Gauge, []string{"mount"}, "Size of a file system."}
	HostDiskFree         = Def{"vigil_host_disk_free_bytes", "bytes", Gauge, []string{"mount"}, "Space of a file system that nothing uses, what is kept for root included."}
	HostDiskAvailable    = Def{"vigil_host_disk_available_bytes", "bytes", Gauge, []string{"mount"}, "Space of a file system that an unprivileged user can have."}
	HostDiskInodes       = Def{"vigil_host_disk_inodes", "1", Gauge, []string{"mount"}, "Inodes of a file system; not there where it does not count them."}
	HostDiskInodesFree   = Def{"vigil_host_disk_free_inodes", "1", Gauge, []string{"mount"}, "Inodes of a file system that nothing uses."}
	HostDiskReadOnly     = Def{"vigil_host_disk_read_only", "1", Gauge, []string{"mount"}, "1 when a file system cannot be written to."}
	HostDiskRead         = Def{"vigil_host_disk_read_bytes_total", "bytes", Counter, []string{"device"}, "Bytes read from a block device."}
	HostDiskWritten      = Def{"vigil_host_disk_written_bytes_total", "bytes", Counter, []string{"device"}, "Bytes written to a block device."}
	HostDiskReads        = Def{"vigil_host_disk_reads_total", "1", Counter, []string{"device"}, "Reads that a block device completed."}
	HostDiskWrites       = Def{"vigil_host_disk_writes_total", "1", Counter, []string{"device"}, "Writes that a block device completed."}
	HostDiskReadTime     = Def{"vigil_host_disk_read_seconds_total", "seconds", Counter, []string{"device"}, "Time that reads took, summed over them."}
	HostDiskWriteTime    = Def{"vigil_host_disk_write_seconds_total", "seconds", Counter, []string{"device"}, "Time that writes took, summed over them."}
	HostDiskBusy         = Def{"vigil_host_disk_busy_seconds_total", "seconds", Counter, []string{"device"}, "Time in which a block device had something to do."}
	HostDiskQueue        = Def{"vigil_host_disk_requests_in_flight", "1", Gauge, []string{"device"}, "Requests that a block device works on."}
	HostNetReceived      = Def{"vigil_host_network_received_bytes_total", "bytes", Counter, []string{"interface"}, "Bytes received on a network interface."}
	HostNetSent          = Def{"vigil_host_network_sent_bytes_total", "bytes", Counter, []string{"interface"}, "Bytes sent on a network interface."}
	HostNetReceives      = Def{"vigil_host_network_received_packets_total", "1", Counter, []string{"interface"}, "Packets received on a network interface."}
	HostNetSends         = Def{"vigil_host_network_sent_packets_total", "1", Counter, []string{"interface"}, "Packets sent on a network interface."}
	HostNetReceiveErrors = Def{"vigil_host_network_receive_errors_total", "1", Counter, []string{"interface"}, "Packets that a network interface received with an error."}
	HostNetSendErrors    = Def{"vigil_host_network_send_errors_total", "1", Counter, []string{"interface"}, "Packets that a network interface could not send."}
	HostNetReceiveDrops  = Def{"vigil_host_network_receive_drops_total", "1", Counter, []string{"interface"}, "Packets that were received and thrown away."}
	HostNetSendDrops     = Def{"vigil_host_network_send_drops_total", "1", Counter, []string{"interface"}, "Packets that were thrown away before they were sent."}
	HostNetCarrier       = Def{"vigil_host_network_carrier", "1", Gauge, []string{"interface"}, "1 while the link of a network interface is up."}
	HostNetFlaps         = Def{"vigil_host_network_carrier_changes_total", "1", Counter, []string{"interface"}, "How often the link of a network interface came or went."}
)

func hostDefs() []Def {
	return []Def{
		HostCPUBusy, HostCPUSeconds, HostCoreSeconds, HostLoad1, HostLoad5, HostLoad15,
		HostTasks, HostTasksRunnable, HostTasksBlocked, HostTasksStuck, HostContexts, HostForks,
		HostStarted, HostUptime, HostFiles, HostFilesMax, HostStall,
		HostClockOffset, HostClockError, HostClockSynced, HostEnergy,
		HostMemoryTotal, HostMemoryFree, HostMemoryAvailable, HostMemoryBuffers, HostMemoryCached,
		HostMemoryShared, HostMemoryAnonymous, HostMemoryDirty, HostMemoryWriteback, HostMemoryKernel,
		HostMemoryPinned, HostMemoryCommitted, HostSwapTotal, HostSwapFree, HostSwapIn, HostSwapOut,
		HostMajorFaults, HostOOMKills, HostHugeTotal, HostHugeFree, HostHugeReserved, HostHugeSurplus, HostHugeSize, HostHugeAnonymous,
		HostDiskInfo, HostDiskTotal, HostDiskFree, HostDiskAvailable, HostDiskInodes, HostDiskInodesFree, HostDiskReadOnly,
		HostDiskRead, HostDiskWritten, HostDiskReads, HostDiskWrites, HostDiskReadTime, HostDiskWriteTime,
		HostDiskBusy, HostDiskQueue,
		HostNetReceived, HostNetSent, HostNetReceives, HostNetSends, HostNetReceiveErrors, HostNetSendErrors,
		HostNetReceiveDrops, HostNetSendDrops, HostNetCarrier, HostNetFlaps,
	}
}
