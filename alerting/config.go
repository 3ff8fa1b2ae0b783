package alerting

import (
	"time"

	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/internal/conf"
)

// Config is what users write. Each receiver has a name and exactly one key
// that is its kind:
//
//	receivers:
//	- name: oncall
//	  slack: {url: "${file:/run/secrets/slack}"}
//	  fallback: mail
//	  limit: {per_minute: 60, burst: 5}
type Config struct {
	// Receivers is who can be told; Route says of what. None means the control
	// plane's log.
	Receivers []conf.Raw `yaml:"receivers"`
	// MaxAge is how long a notification is tried before it is given up.
	MaxAge time.Duration `yaml:"max_age"`
	// TryTimeout is how long one try may take; between 1s and 20s.
	TryTimeout time.Duration `yaml:"try_timeout"`
	// Route is who is told of what, as Alertmanager's route. None: every receiver
	// is told of every incident that calls a person, and nobody of a warning.
	Route *route.Config `yaml:"route"`
	// InhibitRules keep alerts quiet while others fire.
	InhibitRules []route.InhibitConfig `yaml:"inhibit_rules"`
	// TimeIntervals are named times for routes.
	TimeIntervals []route.IntervalConfig `yaml:"time_intervals"`
	// Escalations tell more people of what nobody acknowledges.
	Escalations []route.EscalationConfig `yaml:"escalations"`
	// Heartbeats tell receivers regularly that Vigil is alive.
	Heartbeats []route.HeartbeatConfig `yaml:"heartbeats"`
	// Storm has what begins all at once told in one message.
	Storm route.StormConfig `yaml:"storm"`
	// NotResolved names the receivers that are not told when something is over:
	// Alertmanager's send_resolved: false.
	NotResolved []string `yaml:"not_resolved"`
	// Templates are files, or patterns of files, with templates for the texts of
	// receivers, as Alertmanager's.
	Templates []string `yaml:"templates"`
	// DashboardURL is the page of a run's graphs, with {run} where the run's id
	// stands; notifications link to it. Empty links to the control plane.
	DashboardURL string `yaml:"dashboard_url"`
}

// LimitConfig is how often a receiver may be told.
type LimitConfig struct {
	// PerMinute on average; 0 means what the kind documents for its provider.
	PerMinute float64 `yaml:"per_minute"`
	// Burst is how many may go at once; 0 means one.
	Burst int `yaml:"burst"`
}

// Check reports limits below 0.
func (c LimitConfig) Check(report func(key, format string, args ...any)) {
	if c.PerMinute < 0 {
		report("per_minute", "is %v; want 0 or more", c.PerMinute)
	}
	if c.Burst < 0 {
		report("burst", "is %d; want 0 or more", c.Burst)
	}
}

// Defaults tries for a day, ten seconds at a time, and rolls up what begins
// beyond twenty problems in ten seconds.
func Defaults() Config {
	return Config{
		MaxAge: 24 * time.Hour, TryTimeout: 10 * time.Second, Storm: route.StormConfig{After: 20, Within: 10 * time.Second},
	}
}

// Check reports times that make no sense. Receivers are checked by [New],
// which knows their kinds.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.MaxAge < time.Minute {
		report("max_age", "is %v; want at least 1m", c.MaxAge)
	}
	if c.TryTimeout < time.Second || c.TryTimeout > 20*time.Second {
		report("try_timeout", "is %v; want 1s to 20s", c.TryTimeout)
	}
}
