//go:build cgo && linux && !nonvml

package simulate

import (
	"math"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

const (
	// stateAge is how long a state is good for: all calls of one collection
	// see the same.
	stateAge = 50 * time.Millisecond
	// thermalSeconds is the time constant of a cooler.
	thermalSeconds = 25
	// inletCelsius is the air that comes in; fullCelsius is by how much a GPU
	// at its power limit is warmer.
	inletCelsius, fullCelsius = 31, 39
	// throttledShare is what a throttled GPU's clock falls to.
	throttledShare = 0.55
	// linkShare is how much of what NVLink can do training uses.
	linkShare = 0.35
	// savedEvery and savedFor are how often the synthetic work saves a
	// checkpoint and how long the GPUs wait for it.
	savedEvery, savedFor = 120 * time.Second, 6 * time.Second
)

// physics is how a GPU is at one time.
type physics struct {
	at          time.Duration // since the origin
	load        float64       // share of time that kernels run, 0 to 1
	watts       float64
	celsius     float64
	joules      float64
	linkBytes   float64 // sent over all NVLinks, and received
	smMHz       float64
	memory      uint64 // that work has taken
	throttle    uint64 // NVML's bits
	powerTime   time.Duration
	thermalTime time.Duration
}

// begin is a GPU at the time that its helper starts. What the counters of an
// earlier helper held is not known: these begin at what a GPU at its limit
// would have come to, so that they never go back.
func begin(m model, at time.Duration) physics {
	p := physics{at: at, watts: m.idleWatts, celsius: inletCelsius + 4, smMHz: m.smMaxMHz}
	if at > 0 {
		p.joules = m.limitWatts * at.Seconds()
		p.linkBytes = linkShare * m.linkMBs * 1e6 * at.Seconds()
		p.powerTime, p.thermalTime = at, at
	}
	return p
}

// advance moves a GPU on to a time under a load. Power follows the load,
// temperature follows power, and energy is power over time.
func (p *physics) advance(m model, at time.Duration, load float64, throttle uint64) {
	dt := (at - p.at).Seconds()
	step := at - p.at
	p.at, p.load, p.throttle = at, load, throttle
	share := 1.0
	if throttle != 0 {
		share = throttledShare
	}
	p.smMHz = m.smMaxMHz * share
	if load < 0.01 {
		p.smMHz = math.Round(m.smMaxMHz * 0.17)
	}
	watts := m.idleWatts + (0.93*m.limitWatts-m.idleWatts)*math.Pow(load, 0.8)*math.Pow(share, 1.5)
	p.joules += (p.watts + watts) / 2 * dt
	p.linkBytes += linkShare * m.linkMBs * 1e6 * load * dt
	p.watts = watts
	target := inletCelsius + fullCelsius*watts/m.limitWatts
	const thermal = nvml.ClocksThrottleReasonHwThermalSlowdown | nvml.ClocksEventReasonSwThermalSlowdown
	if throttle&thermal != 0 {
		target = m.slowdown - 1
		p.thermalTime += step
	}
	if throttle&nvml.ClocksEventReasonSwPowerCap != 0 {
		p.powerTime += step
	}
	p.celsius += (target - p.celsius) * (1 - math.Exp(-dt/thermalSeconds))
}

// pattern is the load of synthetic training: near full, each GPU a little
// different, with a pause for a checkpoint, in which all wait.
func pattern(gpu int, at time.Duration) float64 {
	if at%savedEvery > savedEvery-savedFor {
		return 0.04
	}
	return 0.95 + 0.03*math.Sin(at.Seconds()/7+float64(gpu)) + 0.015*noise(gpu, at)
}

// noise is a number from -1 to 1 that is the same for the same GPU and second.
func noise(gpu int, at time.Duration) float64 {
	x := uint64(gpu)*0x9e3779b97f4a7c15 + uint64(at/time.Second)
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return float64(x>>11)/(1<<52) - 1
}
