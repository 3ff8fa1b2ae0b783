package compat

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/agent/page"
	"github.com/vigil-ml/vigil/internal/metric"
)

// plain is a rule for samples whose labels have other names with the other:
// pairs of ours and theirs.
func plain(from metric.Def, name string, labels ...string) rule {
	r := rule{from: from, factor: 1, to: page.Family{Name: "node_" + name, Type: from.Type, Help: from.Help}}
	for i := 0; i+1 < len(labels); i += 2 {
		r.to.Labels = append(r.to.Labels, labels[i+1])
		r.values = append(r.values, own(labels[i]))
	}
	return r
}

// disk is a rule for a file system's samples.
func disk(from metric.Def, name string) rule {
	named := func(name string) source {
		return func(s metric.Sample, k *known) (string, bool) {
			info, ok := k.disk[label(s, "mount")]
			return label(info, name), ok
		}
	}
	r := plain(from, "filesystem_"+name, "mount", "mountpoint")
	r.to.Labels = append(r.to.Labels, "device", "fstype")
	r.values = append(r.values, named("device"), named("type"))
	return r
}

// untyped is no type.
const untyped metric.Type = "untyped"

// untyped makes a rule's family one of no type, as what the other takes out of
// the kernel's files by name has none.
func (r rule) untyped() rule {
	r.to.Type = untyped
	return r
}

// times gives a rule a factor.
func (r rule) times(factor float64) rule {
	r.factor = factor
	return r
}

func nodeRules() []rule {
	var rules []rule
	for _, part := range [][]rule{nodeCPU(), nodeMemory(), nodeDisks(), nodeNetwork(), nodeFabric()} {
		rules = append(rules, part...)
	}
	return rules
}

func nodeCPU() []rule {
	rules := []rule{
		plain(metric.HostCoreSeconds, "cpu_seconds_total", "cpu", "cpu", "mode", "mode"),
		plain(metric.HostLoad1, "load1"), plain(metric.HostLoad5, "load5"), plain(metric.HostLoad15, "load15"),
		plain(metric.HostTasksRunnable, "procs_running"), plain(metric.HostTasksBlocked, "procs_blocked"),
		plain(metric.HostContexts, "context_switches_total"), plain(metric.HostForks, "forks_total"),
		plain(metric.HostStarted, "boot_time_seconds"),
		plain(metric.HostFiles, "filefd_allocated"), plain(metric.HostFilesMax, "filefd_maximum"),
		plain(metric.HostClockOffset, "timex_offset_seconds"), plain(metric.HostClockError, "timex_maxerror_seconds"),
		plain(metric.HostClockSynced, "timex_sync_status"),
		rapl("package"), rapl("dram"),
	}
	for _, stall := range []struct{ resource, scope, name string }{
		{"cpu", "some", "cpu_waiting"}, {"memory", "some", "memory_waiting"}, {"memory", "full", "memory_stalled"},
		{"io", "some", "io_waiting"}, {"io", "full", "io_stalled"}, {"irq", "full", "irq_stalled"},
	} {
		r := plain(metric.HostStall, "pressure_"+stall.name+"_seconds_total")
		r.where = map[string]string{"resource": stall.resource, "scope": stall.scope}
		rules = append(rules, r)
	}
	return rules
}

// rapl is a rule for the energy of one part of each package, "package" or
// "dram": what is behind the name is the package's number.
func rapl(part string) rule {
	r := plain(metric.HostEnergy, "rapl_"+part+"_joules_total")
	r.to.Labels = []string{"index"}
	r.values = []source{func(s metric.Sample, _ *known) (string, bool) { return strings.CutPrefix(label(s, "zone"), part+"-") }}
	return r
}

func nodeMemory() []rule {
	rules := []rule{
		// The kernel counts pages of 4 KiB; here they are bytes.
		plain(metric.HostSwapIn, "vmstat_pswpin").times(1.0 / 4096).untyped(),
		plain(metric.HostSwapOut, "vmstat_pswpout").times(1.0 / 4096).untyped(),
		plain(metric.HostMajorFaults, "vmstat_pgmajfault").untyped(),
		plain(metric.HostOOMKills, "vmstat_oom_kill").untyped(),
	}
	for _, m := range []struct {
		from metric.Def
		name string
	}{
		{metric.HostMemoryTotal, "MemTotal"}, {metric.HostMemoryFree, "MemFree"}, {metric.HostMemoryAvailable, "MemAvailable"},
		{metric.HostMemoryBuffers, "Buffers"}, {metric.HostMemoryCached, "Cached"}, {metric.HostMemoryShared, "Shmem"},
		{metric.HostMemoryAnonymous, "AnonPages"}, {metric.HostMemoryDirty, "Dirty"}, {metric.HostMemoryWriteback, "Writeback"},
		{metric.HostMemoryKernel, "SUnreclaim"}, {metric.HostMemoryPinned, "Unevictable"}, {metric.HostMemoryCommitted, "Committed_AS"},
		{metric.HostHugeSize, "Hugepagesize"}, {metric.HostSwapTotal, "SwapTotal"}, {metric.HostSwapFree, "SwapFree"}, {metric.HostHugeAnonymous, "AnonHugePages"},
	} {
		rules = append(rules, plain(m.from, "memory_"+m.name+"_bytes"))
	}
	return rules
}

func nodeDisks() []rule {
	rules := []rule{
		disk(metric.HostDiskTotal, "size_bytes"), disk(metric.HostDiskAvailable, "avail_bytes"), disk(metric.HostDiskFree, "free_bytes"),
		disk(metric.HostDiskInodes, "files"), disk(metric.HostDiskInodesFree, "files_free"), disk(metric.HostDiskReadOnly, "readonly"),
	}
	for _, d := range []struct {
		from metric.Def
		name string
	}{
		{metric.HostDiskRead, "read_bytes_total"}, {metric.HostDiskWritten, "written_bytes_total"},
		{metric.HostDiskReads, "reads_completed_total"}, {metric.HostDiskWrites, "writes_completed_total"},
		{metric.HostDiskReadTime, "read_time_seconds_total"}, {metric.HostDiskWriteTime, "write_time_seconds_total"},
		{metric.HostDiskBusy, "io_time_seconds_total"}, {metric.HostDiskQueue, "io_now"},
	} {
		rules = append(rules, plain(d.from, "disk_"+d.name, "device", "device"))
	}
	return rules
}

func nodeNetwork() (rules []rule) {
	for _, n := range []struct {
		from metric.Def
		name string
	}{
		{metric.HostNetReceived, "receive_bytes_total"}, {metric.HostNetSent, "transmit_bytes_total"},
		{metric.HostNetReceives, "receive_packets_total"}, {metric.HostNetSends, "transmit_packets_total"},
		{metric.HostNetReceiveErrors, "receive_errs_total"}, {metric.HostNetSendErrors, "transmit_errs_total"},
		{metric.HostNetReceiveDrops, "receive_drop_total"}, {metric.HostNetSendDrops, "transmit_drop_total"},
		{metric.HostNetCarrier, "carrier"}, {metric.HostNetFlaps, "carrier_changes_total"},
	} {
		rules = append(rules, plain(n.from, "network_"+n.name, "interface", "device"))
	}
	return rules
}

// nodeFabric is node_exporter's infiniband collector.
func nodeFabric() []rule {
	port := func(from metric.Def, name string) rule {
		return plain(from, "infiniband_"+name, "device", "device", "port", "port")
	}
	const bits = 8
	rules := []rule{
		port(metric.FabricState, "state_id"), port(metric.FabricRate, "rate_bytes_per_second").times(1.0 / bits),
		port(metric.FabricReceived, "port_data_received_bytes_total"), port(metric.FabricSent, "port_data_transmitted_bytes_total"),
		port(metric.FabricWait, "port_transmit_wait_total"), port(metric.FabricDowned, "link_downed_total"),
	}
	for _, e := range []struct{ counter, name string }{
		{"symbol_error", "symbol_error_total"}, {"link_error_recovery", "link_error_recovery_total"},
		{"port_rcv_errors", "port_errors_received_total"}, {"port_xmit_discards", "port_discards_transmitted_total"},
		{"port_rcv_constraint_errors", "port_constraint_errors_received_total"},
		{"port_xmit_constraint_errors", "port_constraint_errors_transmitted_total"},
		{"port_rcv_remote_physical_errors", "port_receive_remote_physical_errors_total"},
		{"port_rcv_switch_relay_errors", "port_receive_switch_relay_errors_total"},
		{"excessive_buffer_overrun_errors", "excessive_buffer_overrun_errors_total"},
		{"local_link_integrity_errors", "local_link_integrity_errors_total"},
	} {
		r := port(metric.FabricErrors, e.name)
		r.where = map[string]string{"error": e.counter}
		rules = append(rules, r)
	}
	return rules
}

// nodeExtra gives what the machine is called and what time it is.
func nodeExtra(samples []metric.Sample, k *known, p *page.Page) {
	add := func(name, help string, value float64) {
		p.Add(page.Family{Name: "node_" + name, Type: metric.Gauge, Help: help}, nil, value)
	}
	add("time_seconds", "System time in seconds since epoch (1970).", float64(k.now.UnixNano())/1e9)
	size := 0.0 // of a huge page: they are counted in pages
	for _, s := range samples {
		if s.Def.Name == metric.HostHugeSize.Name {
			size = s.Value
		}
	}
	pages := map[string]string{
		metric.HostHugeTotal.Name: "Total", metric.HostHugeFree.Name: "Free", metric.HostHugeReserved.Name: "Rsvd", metric.HostHugeSurplus.Name: "Surp",
	}
	for _, s := range samples {
		if name := pages[s.Def.Name]; name != "" && size > 0 {
			add("memory_HugePages_"+name, s.Def.Help, s.Value/size)
		}
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		text := func(field []byte) string { return string(field[:max(0, bytes.IndexByte(field, 0))]) }
		p.Add(page.Family{
			Name: "node_uname_info", Type: metric.Gauge, Help: "What the kernel calls itself and the machine.",
			Labels: []string{"sysname", "release", "version", "machine", "nodename", "domainname"},
		}, []string{
			text(name.Sysname[:]), text(name.Release[:]), text(name.Version[:]),
			text(name.Machine[:]), text(name.Nodename[:]), text(name.Domainname[:]),
		}, 1)
	}
}
