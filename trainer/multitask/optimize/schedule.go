package optimize

import "math"

// Kinds of schedules.
const (
	Constant = "constant"
	Cosine   = "cosine"
	Linear   = "linear"
	Steps    = "steps"
)

// Schedule is what users say about the learning rate over time.
type Schedule struct {
	// Kind is constant, cosine, linear or steps.
	Kind string `yaml:"kind"`
	// WarmupSteps is the number of steps over which the rate rises to its full.
	WarmupSteps int64 `yaml:"warmup_steps"`
	// Floor is the share of the rate that cosine and linear fall to at the last
	// step; 0 to 1.
	Floor float64 `yaml:"floor"`
	// EverySteps is how many steps lie between two falls by Factor, of steps.
	EverySteps int64   `yaml:"every_steps"`
	Factor     float64 `yaml:"factor"`
}

// DefaultSchedule is a constant rate.
func DefaultSchedule() Schedule { return Schedule{Kind: Constant, EverySteps: 1000, Factor: 0.1} }

// Check reports settings that cannot work.
func (s Schedule) Check(report func(key, format string, args ...any)) {
	switch s.Kind {
	case Constant, Cosine, Linear, Steps:
	default:
		report("kind", "is %q; want %s, %s, %s or %s", s.Kind, Constant, Cosine, Linear, Steps)
	}
	if s.WarmupSteps < 0 {
		report("warmup_steps", "is %d; want at least 0", s.WarmupSteps)
	}
	if !(s.Floor >= 0 && s.Floor <= 1) {
		report("floor", "is %v; want 0 to 1", s.Floor)
	}
	if s.EverySteps < 1 {
		report("every_steps", "is %d; want at least 1", s.EverySteps)
	}
	if !(s.Factor > 0 && s.Factor <= 1) {
		report("factor", "is %v; want over 0 to 1", s.Factor)
	}
}

// At is the share of the learning rate that a step of total gets; both count
// from 1.
func (s Schedule) At(step, total int64) float64 {
	if step <= s.WarmupSteps {
		return float64(step) / float64(s.WarmupSteps+1)
	}
	left := 1.0
	if span := total - s.WarmupSteps - 1; span > 0 {
		left = 1 - min(1, float64(step-s.WarmupSteps-1)/float64(span))
	}
	switch s.Kind {
	case Cosine:
		return s.Floor + (1-s.Floor)*(1-math.Cos(math.Pi*left))/2
	case Linear:
		return s.Floor + (1-s.Floor)*left
	case Steps:
		return math.Pow(s.Factor, float64((step-1)/s.EverySteps))
	}
	return 1
}
