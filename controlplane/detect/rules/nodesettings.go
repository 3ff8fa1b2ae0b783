package rules

// NodeSettings is what can be set of the rules for nodes. Times are in seconds
// by the node's clock, shares are of 1.
type NodeSettings struct {
	XID           XIDSettings         `yaml:"xid"`
	ECC           ECCSettings         `yaml:"ecc"`
	NVLink        NVLinkSettings      `yaml:"nvlink"`
	InfiniBand    InfiniBandSettings  `yaml:"infiniband"`
	Throttling    ThrottlingSettings  `yaml:"throttling"`
	GPUIdle       GPUIdleSettings     `yaml:"gpu_idle"`
	DeviceStuck   DeviceStuckSettings `yaml:"device_stuck"`
	MemoryHigh    ThresholdSettings   `yaml:"memory_high"`
	CPUHigh       ThresholdSettings   `yaml:"cpu_high"`
	GPUMemoryHigh ThresholdSettings   `yaml:"gpu_memory_high"`
	DiskHigh      ThresholdSettings   `yaml:"disk_high"`
	DiskFull      DiskFullSettings    `yaml:"disk_full"`
	DiskFilling   FillingSettings     `yaml:"disk_filling"`
	MemoryFilling FillingSettings     `yaml:"memory_filling"`
	ClockSkew     ClockSkewSettings   `yaml:"clock_skew"`
}

func defaultNodes() NodeSettings {
	return NodeSettings{
		XID:           XIDSettings{Quiet: faultQuiet},
		ECC:           ECCSettings{Span: 600, Corrected: 60},
		NVLink:        NVLinkSettings{Span: 300, Errors: 100, Hold: 30},
		InfiniBand:    InfiniBandSettings{Span: 300, Errors: 100, Flaps: 3, Hold: 20},
		Throttling:    ThrottlingSettings{Ratio: 0.85, CapRatio: 0.6, Busy: 0.3, Hold: 60, Release: 60},
		GPUIdle:       GPUIdleSettings{Idle: 0.05, Busy: 0.3, Hold: 600},
		DeviceStuck:   DeviceStuckSettings{Hold: 30},
		MemoryHigh:    ThresholdSettings{Limit: 0.90, Clear: 0.87, Hold: 120, Release: 60},
		CPUHigh:       ThresholdSettings{Limit: 0.95, Clear: 0.90, Hold: 600, Release: 120},
		GPUMemoryHigh: ThresholdSettings{Limit: 0.95, Clear: 0.92, Hold: 300, Release: 120},
		DiskHigh:      ThresholdSettings{Limit: 0.95, Clear: 0.93, Hold: 60, Release: 60},
		DiskFull:      DiskFullSettings{Left: 0.005, Clear: 0.01},
		DiskFilling:   FillingSettings{Every: 120, Warn: 4 * 3600, Critical: 1800, Growing: 0.6, Single: 0.4},
		MemoryFilling: FillingSettings{Every: 120, Warn: 2 * 3600, Critical: 900, Growing: 0.7, Single: 0.4},
		ClockSkew:     ClockSkewSettings{Warn: 1, Critical: 30, Hold: 60},
	}
}
