package route

import "time"

// StormConfig has a receiver told in one message of problems that begin all at
// once.
type StormConfig struct {
	// After is how many problems of one severity may begin within Within and be
	// told to a receiver by themselves; what begins beyond that is rolled up, until
	// nothing has begun for Within. 0 rolls nothing up.
	After int `yaml:"after"`
	// Within is the time in which they are counted.
	Within time.Duration `yaml:"within"`
	// Except names receivers of which everything is told by itself: programs.
	Except []string `yaml:"except"`
}

// Check reports numbers that make no sense.
func (c StormConfig) Check(report func(key, format string, args ...any)) {
	if c.After < 0 {
		report("after", "is %d; want 0 for never, or more", c.After)
	}
	if c.After > 0 && c.Within < time.Second {
		report("within", "is %v; want at least 1s", c.Within)
	}
}
