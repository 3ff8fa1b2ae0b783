package kernel

import (
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// storageRules is disks and file systems. A message of a disk names the
// device, one of a file system the device below it.
func storageRules() []rule {
	const (
		disk       = commonv1.FaultKind_FAULT_KIND_DISK
		fileSystem = commonv1.FaultKind_FAULT_KIND_FILE_SYSTEM
		smart      = "Read its health (nvme smart-log, smartctl -a); move checkpoints and data elsewhere and have it replaced."
		check      = "Save what is needed, unmount it and check it (fsck, xfs_repair); look for errors of the disk below."
		server     = "See whether the server and the network to it work; processes that use it hang until it answers."
	)
	return []rule{
		{kind: disk, hint: "nvme", severity: critical, title: "An NVMe controller is gone", advice: smart,
			pattern: re(`^nvme (?P<device>nvme\d+): (?:Removing after probe failure|Disabling device after reset failure|Device not ready; aborting|controller is down; will reset)`)},
		{kind: disk, hint: "nvme", severity: warning, title: "An NVMe command did not end in time", advice: smart,
			pattern: re(`^nvme (?P<device>nvme\d+): I/O .*timeout`)},
		{kind: disk, hint: "nvme", severity: warning, title: "An NVMe command ended with an error", advice: smart,
			pattern: re(`^(?P<device>nvme\d+n\d+): .*\(sct 0x\w+ / sc 0x\w+\)`)},
		{kind: disk, hint: "critical", severity: critical, title: "A disk cannot read or write a part of itself", advice: smart,
			pattern: re(`critical (?:medium|target|space allocation) error, dev (?P<device>[^, ]+)`)},
		{kind: disk, hint: "I/O error, dev", severity: critical, title: "A disk answers with an error", advice: smart,
			pattern: re(`I/O error, dev (?P<device>[^, ]+), sector`)},
		{kind: disk, hint: "Buffer I/O error", severity: warning, title: "A disk answers with an error", advice: smart,
			pattern: re(`^Buffer I/O error on dev(?:ice)? (?P<device>[^, ]+)`)},
		{kind: disk, hint: "failed command", severity: warning, title: "A disk's command ended with an error", advice: smart,
			pattern: re(`^(?P<device>ata\d+(?:\.\d+)?): failed command`)},
		{kind: fileSystem, hint: "EXT4-fs", severity: critical, title: "A file system went read-only", advice: check,
			pattern: re(`^EXT4-fs \((?P<device>[^)]+)\): Remounting filesystem read-only`)},
		{kind: fileSystem, hint: "EXT4-fs error", severity: critical, title: "A file system has an error", advice: check,
			pattern: re(`^EXT4-fs error \(device (?P<device>[^)]+)\)`)},
		{kind: fileSystem, hint: "XFS (", severity: critical, title: "A file system has an error", advice: check,
			pattern: re(`^XFS \((?P<device>[^)]+)\): (?:.*[Cc]orruption|.*shut ?down|.*metadata I/O error|log I/O error)`)},
		{kind: fileSystem, hint: "BTRFS", severity: critical, title: "A file system has an error", advice: check,
			pattern: re(`^BTRFS:? (?:error|critical) \(device (?P<device>[^):]+)`)},
		{kind: fileSystem, hint: "not responding", severity: warning, title: "The server of a file system does not answer", advice: server,
			pattern: re(`^nfs: server (?P<device>\S+) not responding`)},
		{kind: fileSystem, hint: "Lustre: ", severity: warning, title: "The connection to a file system's server is lost", advice: server,
			pattern: re(`^Lustre: .*: Connection to (?P<device>\S+) .*was lost`)},
		{kind: fileSystem, hint: "LustreError: ", severity: warning, title: "A file system client was put out by its server", advice: server,
			pattern: re(`^LustreError: .*: This client was evicted by (?P<device>[^;\s]+)`)},
	}
}

// networkRules is adapters and their links.
func networkRules() []rule {
	const (
		network = commonv1.FaultKind_FAULT_KIND_NETWORK
		cable   = "See whether it came back and how often it goes; clean or replace the cable or its module, and look at the switch's port."
		adapter = "Read the adapter's health (mstflint, ethtool); a cold restart may help once, then have it replaced."
	)
	return []rule{
		{kind: network, hint: "NETDEV WATCHDOG", severity: warning, title: "A network adapter stopped sending", advice: adapter,
			pattern: re(`NETDEV WATCHDOG: (?P<device>[^ :(]+) \(`)},
		{kind: network, hint: "NETDEV WATCHDOG", severity: warning, title: "A network adapter stopped sending", advice: adapter,
			pattern: re(`^\S+ \S+ (?P<device>\S+): NETDEV WATCHDOG`)}, // since 6.6
		{kind: network, hint: "mlx5_core", severity: critical, title: "A network adapter's firmware has failed", advice: adapter,
			pattern: re(`^mlx5_core (?P<device>[0-9a-f:]+\.[0-9a-f]).*(?:Fatal error \d+ detected|health compromised|assert_var|recovery (?:failed|flow aborted))`)},
		{kind: network, hint: "Port module event[error]", severity: warning, title: "A network module or its cable has an error", advice: cable,
			pattern: re(`^mlx5_core (?P<device>[0-9a-f:]+\.[0-9a-f]).*Port module event\[error\]`)},
		{kind: network, hint: "mlx5_core", severity: warning, title: "A network link went down", advice: cable,
			pattern: re(`^mlx5_core [0-9a-f:.]+ (?P<device>[^ :]+): Link down`)},
		{kind: network, hint: "Link is Down", severity: warning, title: "A network link went down", advice: cable,
			pattern: re(`^\S+ [0-9a-f:.]+ (?:\S+: )*?(?P<device>[^ :]+):? (?:NIC )?Link is Down`)},
		{kind: network, hint: "link status definitely down", severity: warning, title: "A network link went down", advice: cable,
			pattern: re(`^\S+: \(slave (?P<device>[^)]+)\): link status definitely down`)},
	}
}
