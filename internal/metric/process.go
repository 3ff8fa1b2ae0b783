package metric

// Metrics of the training processes on a node; each counts a trainer and its
// children together.
var (
	ProcessCount     = Def{"vigil_process_processes", "1", Gauge, []string{"run", "rank"}, "A trainer and its children, counted."}
	ProcessCPU       = Def{"vigil_process_cpu_seconds_total", "seconds", Counter, []string{"run", "rank"}, "CPU time of a trainer and of its children that were seen."}
	ProcessResident  = Def{"vigil_process_resident_bytes", "bytes", Gauge, []string{"run", "rank"}, "Resident memory of a trainer and its children; pages that they share count in each."}
	ProcessAnonymous = Def{"vigil_process_anonymous_bytes", "bytes", Gauge, []string{"run", "rank"}, "Resident memory that no file stands behind."}
	ProcessShared    = Def{"vigil_process_shared_memory_bytes", "bytes", Gauge, []string{"run", "rank"}, "Resident shared memory: tensors on their way from data loaders, for instance."}
	ProcessSwapped   = Def{"vigil_process_swapped_bytes", "bytes", Gauge, []string{"run", "rank"}, "Memory that is in swap."}
	ProcessPSS       = Def{"vigil_process_proportional_bytes", "bytes", Gauge, []string{"run", "rank"}, "Resident memory in which each shared page counts by the share of it; kind process_memory."}
	ProcessThreads   = Def{"vigil_process_threads", "1", Gauge, []string{"run", "rank"}, "Threads of a trainer and its children."}
	ProcessFiles     = Def{"vigil_process_open_files", "1", Gauge, []string{"run", "rank"}, "File descriptors of a trainer and its children."}
	ProcessRead      = Def{"vigil_process_read_bytes_total", "bytes", Counter, []string{"run", "rank"}, "Bytes that a trainer and its children had read from storage."}
	ProcessWritten   = Def{"vigil_process_written_bytes_total", "bytes", Counter, []string{"run", "rank"}, "Bytes that a trainer and its children had written to storage."}
)

// Metrics of a training job's control group. Ranks that share one are given
// once, under the lowest of them on the node.
var (
	CgroupMemory      = Def{"vigil_cgroup_memory_bytes", "bytes", Gauge, []string{"run", "rank"}, "Memory that the control group uses, files in memory included."}
	CgroupMemoryPeak  = Def{"vigil_cgroup_memory_peak_bytes", "bytes", Gauge, []string{"run", "rank"}, "Most memory that the control group ever used."}
	CgroupMemoryLimit = Def{"vigil_cgroup_memory_limit_bytes", "bytes", Gauge, []string{"run", "rank"}, "Tightest limit of the control group and those above it; not there without one."}
	CgroupMemoryAnon  = Def{"vigil_cgroup_memory_anonymous_bytes", "bytes", Gauge, []string{"run", "rank"}, "What of it no file stands behind: it cannot be given back."}
	CgroupMemoryShmem = Def{"vigil_cgroup_memory_shared_bytes", "bytes", Gauge, []string{"run", "rank"}, "What of it is shared memory or tmpfs."}
	CgroupEvents      = Def{"vigil_cgroup_memory_events_total", "1", Counter, []string{"run", "rank", "event"}, "How often the control group met a bound: high, max, oom, oom_kill."}
	CgroupStall       = Def{"vigil_cgroup_stall_seconds_total", "seconds", Counter, []string{"run", "rank", "resource", "scope"}, "Time in which some or all (full) tasks of the control group waited for cpu, memory or io."}
	CgroupCPU         = Def{"vigil_cgroup_cpu_seconds_total", "seconds", Counter, []string{"run", "rank"}, "CPU time of the control group."}
	CgroupThrottled   = Def{"vigil_cgroup_cpu_throttled_seconds_total", "seconds", Counter, []string{"run", "rank"}, "Time in which the control group had used up its CPU quota."}
	CgroupThrottles   = Def{"vigil_cgroup_cpu_throttled_periods_total", "1", Counter, []string{"run", "rank"}, "Periods in which it was throttled."}
)

func processDefs() []Def {
	return []Def{
		ProcessCount, ProcessCPU, ProcessResident, ProcessAnonymous, ProcessShared, ProcessSwapped, ProcessPSS,
		ProcessThreads, ProcessFiles, ProcessRead, ProcessWritten,
		CgroupMemory, CgroupMemoryPeak, CgroupMemoryLimit, CgroupMemoryAnon, CgroupMemoryShmem, CgroupEvents,
		CgroupStall, CgroupCPU, CgroupThrottled, CgroupThrottles,
	}
}
