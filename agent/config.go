package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/command"
	"github.com/vigil-ml/vigil/agent/compat"
	"github.com/vigil-ml/vigil/agent/cores"
	"github.com/vigil-ml/vigil/agent/journal"
	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/agent/reflex"
	"github.com/vigil-ml/vigil/agent/report"
	"github.com/vigil-ml/vigil/agent/scan"
	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/agent/uplink"
	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/serve"
	"github.com/vigil-ml/vigil/internal/statedir"
	"github.com/vigil-ml/vigil/internal/telemetry"
)

// Config is what users write. Paths that are not absolute lie below StateDir.
type Config struct {
	// Node is the node's name, unique in the installation. Default: the one that
	// the state directory has, else the host's.
	Node string `yaml:"node"`
	// StateDir is where everything durable lies. Default: the user's state
	// directory, vigil/agent.
	StateDir string `yaml:"state_dir"`
	// Listen is host:port on loopback for /metrics and /healthz.
	Listen string `yaml:"listen"`
	// Compat is the other exporters whose names /metrics has too, with commas:
	// dcgm, node. See docs/compat.md.
	Compat string `yaml:"compat"`

	Trainers localapi.Config `yaml:"trainers"`
	Uplink   uplink.Config   `yaml:"uplink"`
	Spool    Spools          `yaml:"spool"`
	Journal  journal.Config  `yaml:"journal"`
	Vault    vault.Config    `yaml:"vault"`
	Commands command.Config  `yaml:"commands"`
	Reflex   reflex.Config   `yaml:"reflex"`
	// GPU is which GPUs there are: empty or "driver" for those of the driver, or
	// for instance "simulated=8xH100,script=faults.yaml", for whoever has none.
	GPU string `yaml:"gpu"`
	// Collectors is by kind; one that is not named runs with its defaults.
	Collectors map[string]Collector  `yaml:"collectors"`
	Report     report.Config         `yaml:"report"`
	Scan       scan.Config           `yaml:"scan"`
	Cores      cores.Config          `yaml:"cores"`
	Log        telemetry.LogConfig   `yaml:"log"`
	Trace      telemetry.TraceConfig `yaml:"trace"`
	// Forward is what the agent says of itself, and trainers of themselves, to the
	// control plane, which exports it; docs/exports.md.
	Forward Forward `yaml:"forward"`
}

// Forward is what goes to the control plane for its exporters. It waits in the
// spool as events do.
type Forward struct {
	// Traces are spans, unless trace.otlp_endpoint takes them.
	Traces bool `yaml:"traces"`
	// Logs are what the program logs.
	Logs bool `yaml:"logs"`
}

// Collector is what is set for every kind of collector, and what is its own.
type Collector struct {
	// Off leaves it out.
	Off bool `yaml:"off"`
	// Interval is the time from one call to the next; 0 means ten seconds,
	// or what the kind itself says.
	Interval time.Duration `yaml:"interval"`
	// Timeout bounds a call; 0 means the interval.
	Timeout time.Duration `yaml:"timeout"`
	// Settings is the kind's own.
	Settings conf.Raw `yaml:"settings"`
}

const (
	collectInterval = 10 * time.Second
	samplesSync     = collectInterval
	spoolBytes      = 256 << 20
)

// Spools is one spool for each class of frames.
type Spools struct {
	// MaxBytes bounds both together, in bytes: when it is reached the oldest
	// samples go, and events only when no sample is left.
	MaxBytes int64 `yaml:"max_bytes"`

	Events  spool.Config `yaml:"events"`
	Samples spool.Config `yaml:"samples"`
}

// Check reports a bound that leaves no room for both.
func (s Spools) Check(report func(key, format string, args ...any)) {
	if least := 2 * (s.Events.SegmentBytes + s.Samples.SegmentBytes); s.MaxBytes < least {
		report("max_bytes", "is %d; want at least two segments of each class, %d", s.MaxBytes, least)
	}
}

// Defaults is an agent whose control plane is on the same machine.
func Defaults() Config {
	c := Config{
		StateDir: statedir.Default("agent"),
		Listen:   "127.0.0.1:9464",
		Trainers: localapi.Defaults("agent.sock"),
		Uplink:   uplink.Defaults(),
		Spool:    Spools{MaxBytes: spoolBytes, Events: spool.Defaults("spool/events"), Samples: spool.Defaults("spool/samples")},
		Journal:  journal.Defaults("journal"),
		Vault:    vault.Defaults("vault"),
		Commands: command.Defaults("commands"),
		Reflex:   reflex.Defaults(),
		Report:   report.Defaults(),
		Scan:     scan.Defaults(),
		Cores:    cores.Defaults(),
		Log:      telemetry.DefaultLog(),
	}
	c.Trainers.Runs = "runs.json"
	// A sample that is lost with the machine is one that nobody will miss.
	c.Spool.Samples.SyncInterval = samplesSync
	c.Spool.Samples.SegmentBytes = 1 << 20 // events take the room of a segment at a time
	return c
}

// Check reports what no agent could run with.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Node != "" {
		if err := protocol.CheckNode(c.Node); err != nil {
			report("node", "%v", err)
		}
	}
	if c.StateDir == "" {
		report("state_dir", "is empty; name a directory")
	}
	if wrong := serve.Loopback(c.Listen); wrong != "" {
		report("listen", "%q: %s", c.Listen, wrong)
	}
	if _, err := compat.Parse(c.Compat); err != nil {
		report("compat", "%v", err)
	}
	for kind := range c.Collectors {
		if names := Collectors().Names(); !slices.Contains(names, kind) {
			report("collectors", "there is no collector %q; there are %s", kind, strings.Join(names, ", "))
		}
	}
}

// settle makes the state directory, puts relative paths below it, and settles
// the node's name.
func (c *Config) settle() error {
	err := statedir.Settle(c.StateDir, &c.Trainers.Socket, &c.Trainers.Runs, &c.Spool.Events.Dir, &c.Spool.Samples.Dir,
		&c.Journal.Dir, &c.Vault.Dir, &c.Commands.Path)
	if err != nil {
		return err
	}
	return errors.Join(c.bindNode(), c.bindAddress())
}

// Check finds the mistakes in the collectors' settings and those of the second
// store; it starts nothing.
func Check(c Config) error {
	log := slog.New(slog.DiscardHandler)
	_, err := c.sources(collect.Deps{Log: log})
	_, replicaErr := c.replica(log)
	return conf.Join(err, replicaErr)
}

// replica builds the second store for checkpoints; nil where there is none.
func (c *Config) replica(log *slog.Logger) (blob.Store, error) {
	if c.Vault.Replica.Kind == "" {
		return nil, nil
	}
	store, err := Replicas().Build(c.Vault.Replica.Kind, c.Vault.Replica.Settings, blob.Deps{Log: log, Getenv: os.Getenv})
	if err != nil {
		return nil, fmt.Errorf("vault.replica: %w", err)
	}
	return store, nil
}

// sources builds every collector of the catalogue, with its interval.
func (c *Config) sources(deps collect.Deps) ([]collect.Source, error) {
	var sources []collect.Source
	formats, err := compat.Parse(c.Compat)
	if err != nil {
		return nil, err
	}
	deps.GPU, deps.PerCore = c.GPU, slices.Contains(formats, compat.Node)
	for _, kind := range Collectors().Names() {
		chosen := c.Collectors[kind]
		if chosen.Off {
			continue
		}
		collector, err := Collectors().Build(kind, chosen.Settings, deps)
		if err != nil {
			return nil, fmt.Errorf("build collector %s: %w", kind, err)
		}
		if chosen.Interval == 0 {
			chosen.Interval = collectInterval
			if paced, ok := collector.(collect.Paced); ok {
				chosen.Interval = paced.Pace()
			}
		}
		sources = append(sources, collect.Source{
			Name: kind, Collector: collector, Interval: chosen.Interval, Timeout: chosen.Timeout,
		})
	}
	return sources, nil
}
