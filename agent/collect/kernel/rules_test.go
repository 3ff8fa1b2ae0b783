package kernel

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// lines is what kernels 5.4 to 6.8 and drivers 470 to 570 say, and what it
// means: kind, device, code, pid and process, severity.
func lines() map[string]*commonv1.NodeFault {
	const (
		xid, sxid, oom = commonv1.FaultKind_FAULT_KIND_XID, commonv1.FaultKind_FAULT_KIND_SXID, commonv1.FaultKind_FAULT_KIND_OOM_KILL
		memory, mce    = commonv1.FaultKind_FAULT_KIND_MEMORY_ERROR, commonv1.FaultKind_FAULT_KIND_MACHINE_CHECK
		disk, fileSys  = commonv1.FaultKind_FAULT_KIND_DISK, commonv1.FaultKind_FAULT_KIND_FILE_SYSTEM
		network, hung  = commonv1.FaultKind_FAULT_KIND_NETWORK, commonv1.FaultKind_FAULT_KIND_HUNG_TASK
	)
	return map[string]*commonv1.NodeFault{
		"NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.":                              {Kind: xid, Device: "0000:3b:00.0", Code: 79, Severity: critical},
		"NVRM: Xid (PCI:0000:3b:00): 31, pid=12345, name=python3, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT": {Kind: xid, Device: "0000:3b:00.0", Code: 31, Pid: 12345, Process: "python3", Severity: warning},
		"NVRM: Xid (PCI:0000:c1:00): 94, pid='4711', name=pt_main_thread, Contained: SM (0x1). RST: No, D-RST: No":                  {Kind: xid, Device: "0000:c1:00.0", Code: 94, Pid: 4711, Process: "pt_main_thread", Severity: critical},
		"NVRM: Xid (0000:03:00): 6, PE0001": {Kind: xid, Device: "0000:03:00.0", Code: 6, Severity: warning},
		"NVRM: Xid (PCI:0000:1b:00): 63, pid=1234, Row Remapper: New row marked for remapping, reset gpu to activate.": {Kind: xid, Device: "0000:1b:00.0", Code: 63, Pid: 1234, Severity: warning},
		"NVRM: Xid (PCI:0000:1b:00): 9999, pid=1, something new":                                                       {Kind: xid, Device: "0000:1b:00.0", Code: 9999, Pid: 1, Severity: warning},
		"nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)":           {Kind: sxid, Device: "0000:c1:00.0", Code: 28006, Severity: info},
		"nvidia-nvswitch0: SXid (PCI:0000:87:00.0): 12028, Fatal, Link 32 egress non-posted PRIV error (First)":        {Kind: sxid, Device: "0000:87:00.0", Code: 12028, Severity: critical},

		"Out of memory: Killed process 1234 (python3) total-vm:12345kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB, UID:1000 pgtables:1kB oom_score_adj:0": {Kind: oom, Pid: 1234, Process: "python3", Severity: warning},
		"Memory cgroup out of memory: Killed process 4711 (pt_data (worker)) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB":                     {Kind: oom, Pid: 4711, Process: "pt_data (worker)", Severity: warning},
		"Killed process 77 (python), UID 1000, total-vm:1kB":                                                                 {Kind: oom, Pid: 77, Process: "python", Severity: warning},
		"EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#0 (channel:0 slot:0 page:0x1 offset:0x0 grain:32)": {Kind: memory, Device: "MC0", Severity: info},
		"EDAC MC1: 1 UE memory scrub error on CPU_SrcID#1_MC#0_Chan#1_DIMM#0 (channel:1)":                                    {Kind: memory, Device: "MC1", Severity: critical},
		"Memory failure: 0x1a2b3c: recovery action for dirty LRU page: Recovered":                                            {Kind: memory, Severity: critical},
		"mce: [Hardware Error]: CPU 2: Machine Check: 0 Bank 8: 8c00004000010090":                                            {Kind: mce, Device: "cpu2", Severity: critical},
		"mce: [Hardware Error]: CPU 12: Machine Check Exception: 5 Bank 4: be00000000800400":                                 {Kind: mce, Device: "cpu12", Severity: critical},
		"mce: [Hardware Error]: Machine check events logged":                                                                 {Kind: mce, Severity: warning},
		"{1}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 1":                                     {Kind: mce, Severity: warning},
		"nvme nvme0: I/O 128 QID 5 timeout, aborting":                                                                        {Kind: disk, Device: "nvme0", Severity: warning},
		"nvme nvme1: I/O tag 832 (4340) opcode 0x1 (I/O Cmd) QID 5 timeout, aborting req_op:WRITE(1) size:131072":            {Kind: disk, Device: "nvme1", Severity: warning},
		"nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10":                                       {Kind: disk, Device: "nvme0", Severity: critical},
		"nvme nvme2: Disabling device after reset failure: -19":                                                              {Kind: disk, Device: "nvme2", Severity: critical},
		"nvme0n1: Read(0x2) @ LBA 0, 8 blocks, Unrecovered Read Error (sct 0x2 / sc 0x81) MORE DNR":                          {Kind: disk, Device: "nvme0n1", Severity: warning},
		"blk_update_request: I/O error, dev sdb, sector 1234 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0":                {Kind: disk, Device: "sdb", Severity: critical},
		"critical medium error, dev nvme0n1, sector 512 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2":                     {Kind: disk, Device: "nvme0n1", Severity: critical},
		"Buffer I/O error on dev sda1, logical block 5, async page read":                                                     {Kind: disk, Device: "sda1", Severity: warning},
		"ata3.00: failed command: READ FPDMA QUEUED":                                                                         {Kind: disk, Device: "ata3.00", Severity: warning},
		"EXT4-fs error (device sda1): ext4_find_entry:1463: inode #2: comm python: reading directory lblock 0":               {Kind: fileSys, Device: "sda1", Severity: critical},
		"EXT4-fs (sda1): Remounting filesystem read-only":                                                                    {Kind: fileSys, Device: "sda1", Severity: critical},
		"XFS (nvme0n1p2): Metadata corruption detected at xfs_agf_read_verify+0x5/0x1 [xfs], xfs_agf block 0x1":              {Kind: fileSys, Device: "nvme0n1p2", Severity: critical},
		"XFS (dm-0): Filesystem has been shut down due to log error (0x2).":                                                  {Kind: fileSys, Device: "dm-0", Severity: critical},
		"BTRFS error (device sda1): bdev /dev/sda1 errs: wr 1, rd 0, flush 0, corrupt 0, gen 0":                              {Kind: fileSys, Device: "sda1", Severity: critical},
		"nfs: server nas1 not responding, still trying":                                                                      {Kind: fileSys, Device: "nas1", Severity: warning},
		"LustreError: 11-0: x-MDT0000-mdc: This client was evicted by x-MDT0000; in progress operations using this service":  {Kind: fileSys, Device: "x-MDT0000", Severity: warning},
		"mlx5_core 0000:3b:00.0 eth2: Link down":                                                                             {Kind: network, Device: "eth2", Severity: warning},
		"mlx5_core 0000:3b:00.0: poll_health:825:(pid 0): device's health compromised - reached miss count":                  {Kind: network, Device: "0000:3b:00.0", Severity: critical},
		"mlx5_core 0000:3b:00.0: Port module event[error]: module 0, Cable error, Power budget exceeded":                     {Kind: network, Device: "0000:3b:00.0", Severity: warning},
		"bnxt_en 0000:19:00.0 eno1: NIC Link is Down":                                                                        {Kind: network, Device: "eno1", Severity: warning},
		"igb 0000:01:00.0 enp1s0: igb: enp1s0 NIC Link is Down":                                                              {Kind: network, Device: "enp1s0", Severity: warning},
		"NETDEV WATCHDOG: eth0 (igb): transmit queue 3 timed out":                                                            {Kind: network, Device: "eth0", Severity: warning},
		"igb 0000:01:00.0 eth0: NETDEV WATCHDOG: CPU: 9: transmit queue 0 timed out 5004 ms":                                 {Kind: network, Device: "eth0", Severity: warning},
		"bond0: (slave eth0): link status definitely down, disabling slave":                                                  {Kind: network, Device: "eth0", Severity: warning},
		"INFO: task python:4711 blocked for more than 120 seconds.":                                                          {Kind: hung, Pid: 4711, Process: "python", Severity: warning},
		"watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [pt:main:4711]":                                                   {Kind: hung, Pid: 4711, Process: "pt:main", Device: "cpu3", Severity: critical},
		"watchdog: Watchdog detected hard LOCKUP on cpu 3":                                                                   {Kind: hung, Device: "cpu3", Severity: critical},
		"rcu: INFO: rcu_sched self-detected stall on CPU":                                                                    {Kind: hung, Severity: warning},
		"XFS (sda1): Mounting V5 Filesystem":                                                                                 {},
		"EXT4-fs (vda): mounted filesystem 00000000-0000-0000-0000-000000000000 r/w without journal. Quota mode: none.":      {},
		"nvme nvme0: 8/0/0 default/read/poll queues":                                                                         {},
		"mlx5_core 0000:3b:00.0 eth2: Link up":                                                                               {},
		"nfs: server nas1 OK":                                                                                                {},
		"python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0":                                    {},
		"oom_reaper: reaped process 1234 (python3), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB":                           {},
		"user program says NVRM: Xid (PCI:0000:3b:00): 79, pid=1":                                                            {},
		"NVRM: Xid (PCI:0000:3b:00): , pid=1":                                                                                {},
	}
}

func TestWhatLinesMean(t *testing.T) {
	in := newInterpreter()
	for line, want := range lines() {
		got := in.fault(line)
		if want.Kind == 0 {
			if got != nil {
				t.Errorf("%q is taken for %v", line, got)
			}
			continue
		}
		if got == nil {
			t.Errorf("%q is taken for nothing", line)
			continue
		}
		if got.Title == "" || got.Advice == "" || got.Message != line || got.Source != "kmsg" {
			t.Errorf("%q: title %q, advice %q, message %q, source %q", line, got.Title, got.Advice, got.Message, got.Source)
		}
		got.Title, got.Advice, got.Message, got.Source = "", "", "", ""
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

func TestEveryRuleIsShown(t *testing.T) {
	in := newInterpreter()
	used := map[int]bool{}
	for line := range lines() {
		for i := range in.rules {
			if strings.Contains(line, in.rules[i].hint) && in.rules[i].pattern().MatchString(line) {
				used[i] = true
				break
			}
		}
	}
	for i, r := range in.rules {
		if !used[i] && r.hint != "Lustre: " {
			t.Errorf("no line shows the rule %q %s", r.title, r.pattern())
		}
	}
}

func TestWhetherAnSXIDIsFatalIsTheDriversWord(t *testing.T) {
	for _, code := range []int32{1, 10003, 11004, 12028, 19084, 20001, 20034, 24001} {
		title, advice, severity := sxid(code, true)
		if _, _, other := sxid(code, false); title == "" || advice == "" || severity != critical || other != info {
			t.Errorf("SXID %d: %q, %q, %v and %v", code, title, advice, severity, other)
		}
	}
}
