// Package agent is the wiring of the agent: it opens the parts, gives each what
// it needs, and starts them.
//
// The way of an event is: localapi, journal, spool, uplink. The way of a command
// is: uplink, command, localapi, and back through vault and journal.
// docs/ARCHITECTURE.md walks both.
package agent

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/command"
	"github.com/vigil-ml/vigil/agent/cores"
	"github.com/vigil-ml/vigil/agent/enroll"
	"github.com/vigil-ml/vigil/agent/journal"
	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/agent/reflex"
	"github.com/vigil-ml/vigil/agent/report"
	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/agent/standing"
	"github.com/vigil-ml/vigil/agent/uplink"
	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/telemetry"
	"github.com/vigil-ml/vigil/internal/version"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Deps is what the agent's program injects: parts that are not the agent's own.
type Deps struct {
	// Weights answers trainers that ask for the weights of their tasks; nil: no
	// trainer can.
	Weights localapi.Weigher
}

// Run runs an agent until ctx ends. Its logs go to w. What comes over reloads
// takes the configuration's place, as far as that goes without a restart; nil
// brings nothing.
func (d Deps) Run(ctx context.Context, config Config, reloads <-chan Config, w io.Writer) error {
	written := config
	if err := config.settle(); err != nil {
		return err
	}
	said, err := newSaid(ctx, config)
	if err != nil {
		return err
	}
	log, setLevel := telemetry.LeveledLogger(w, config.Log, said.logs)
	log = log.With("node", config.Node)
	return life.Run(ctx, func(_ context.Context, services, foundations *life.Group) error {
		services.Go("telemetry", life.AtEnd(func() error { said.flush(); return nil }))
		a := &agent{deps: d, config: config, log: log, tracer: said.tracer, metrics: telemetry.NewRegistry()}
		if err := a.open(foundations); err != nil {
			return err
		}
		said.through(a.journal)
		return a.setup(services, newReloader(a, written, setLevel), reloads)
	})
}

// agent is the parts while they are put together.
type agent struct {
	deps    Deps
	config  Config
	log     *slog.Logger
	tracer  trace.Tracer
	metrics *prometheus.Registry

	events  *spool.Spool
	samples *spool.Spool
	journal *journal.Journal
}

// open opens what everything stands on.
func (a *agent) open(foundations *life.Group) (err error) {
	spoolMetrics, budget := spool.NewMetrics(a.metrics), spool.NewBudget(a.config.Spool.MaxBytes)
	for _, s := range []struct {
		into   **spool.Spool
		config spool.Config
		class  string
	}{
		{&a.samples, a.config.Spool.Samples, "samples"},
		{&a.events, a.config.Spool.Events, "events"}, // to which samples yield
	} {
		opened, err := spool.Open(s.config, spool.Deps{
			FS: durable.OS{}, Log: a.log, Metrics: spoolMetrics, Class: s.class, Budget: budget, Yields: a.samples,
		})
		if err != nil {
			return err
		}
		*s.into = opened
		foundations.Go("spool of "+s.class, func(ctx context.Context) error {
			err := opened.Run(ctx)
			if closeErr := opened.Close(); err == nil {
				err = closeErr
			}
			return err
		})
	}
	a.journal, err = journal.Open(a.config.Journal, journal.Deps{
		Node: a.config.Node, Events: a.events, Samples: a.samples, FS: durable.OS{},
		Log: a.log, Metrics: a.metrics, Tracer: a.tracer, Clock: time.Now,
	})
	if err != nil {
		return err
	}
	foundations.Go("journal", life.AtEnd(a.journal.Close))
	return nil
}

// setup makes the services and starts them. It is one straight line, longer
// than other functions, because its order is the order in which the parts
// depend on each other.
func (a *agent) setup(services *life.Group, reload *reloader, reloads <-chan Config) error {
	sessions := localapi.NewSessions(a.metrics)
	governor := cores.New(a.config.Cores, a.log)
	// What trainers and the vault say is told to those who wait for it, once it
	// is on disk.
	var orders *command.Checkpoints
	var profiles *command.Profiles
	var reflexes *reflex.Reflex
	var checkpoints *vault.Vault
	var up *uplink.Uplink
	stands := standing.New(time.Now)
	observe := func(event *commonv1.Event) {
		stands.Observe(event)
		checkpoints.Observe(event)
		orders.Observe(event)
		profiles.Observe(event)
		reflexes.Observe(event)
	}
	second, err := a.config.replica(a.log)
	if err != nil {
		return err
	}
	checkpoints, err = vault.New(a.config.Vault, vault.Deps{
		Log: a.log, Metrics: a.metrics, Tracer: a.tracer, Clock: time.Now, FS: durable.OS{}, Node: a.config.Node,
		Events: a.journal.Events, Observe: observe, Replica: second, KeyUsed: a.keyUsed,
		Meet: func(ctx context.Context, in *agentv1.MeetRequest) (*agentv1.MeetResponse, error) {
			return up.Meet(ctx, in)
		},
	})
	if err != nil {
		return err
	}
	a.warnOfOthers(checkpoints.ForOthers)
	orders = command.NewCheckpoints(command.CheckpointDeps{
		Log: a.log, Tracer: a.tracer, Clock: time.Now, Trainers: sessions, Saved: checkpoints.Saved, Events: a.journal.Events,
	})
	profiles = command.NewProfiles(command.ProfileDeps{
		Log: a.log, Clock: time.Now, Trainers: sessions, Events: a.journal.Events, Dir: filepath.Join(a.config.StateDir, "profiles"),
	})
	commands := command.New(a.config.Commands, command.Deps{
		Log: a.log, Metrics: a.metrics, Clock: time.Now, FS: durable.OS{},
		Saver: orders, Keeper: checkpoints, Recorder: profiles, Events: a.journal.Events,
	})
	reload.deps = collect.Deps{
		Log: a.log, Faults: a.fault(observe), Trainers: registered(sessions), StateDir: a.config.StateDir,
	}
	sources, err := a.config.sources(reload.deps)
	if err != nil {
		return err
	}
	collectors, err := collect.NewRunner(sources, collect.RunnerDeps{
		Record: func(ctx context.Context, samples []metric.Sample) error {
			reflexes.Sampled(samples)
			return a.journal.Samples(ctx, samples)
		},
		Log: a.log, Metrics: a.metrics, Clock: time.Now,
	})
	if err != nil {
		return err
	}
	reload.collectors = collectors
	metrics, err := a.metricsPage(collectors)
	if err != nil {
		return err
	}
	reports := report.New(a.config.Report, report.Deps{
		Latest: collectors.Latest, Statuses: collectors.Statuses, Trainers: registered(sessions),
		Record: a.record, Log: a.log, Clock: time.Now,
	})
	identity, err := enroll.Open(a.config.enrollment(), a.log)
	if err != nil {
		return err
	}
	up = uplink.New(a.config.Uplink, uplink.Deps{
		Credentials: identity.Credentials, Address: identity.Address,
		Events: a.events, Samples: a.samples, Series: a.journal, Commands: commands,
		Hello: a.hello, Heartbeat: a.heartbeat(collectors, reload), Settings: reload.tell,
		Log: a.log, Metrics: a.metrics,
	})
	reflexes = reflex.New(a.config.Reflex, reflex.Deps{
		Log: a.log, Metrics: a.metrics, Clock: time.Now, Orders: orders, Connected: up.Connected,
		Runs: runs(sessions),
	})
	trainers := localapi.New(a.config.Trainers, localapi.Deps{
		Log: a.log, Metrics: a.metrics, Clock: time.Now, Node: a.config.Node, Sessions: sessions,
		Checkpoints: eager{checkpoints, governor.Raise}, Orders: orders, Events: a.journal.Events, Observe: observe,
		GPUBusy: busiestGPU(collectors.Latest), Standing: stands, Weights: a.deps.Weights, Encrypts: a.config.Vault.Encryption.On(), Telemetry: a.config.Forward != (Forward{}),
	})

	services.Go("cores", governor.Run)
	services.Go("vault", checkpoints.Run)
	services.Go("orders", orders.Run)
	services.Go("commands", commands.Run)
	services.Go("reflex", reflexes.Run)
	services.Go("collectors", collectors.Run)
	services.Go("reports", reports.Run)
	services.Go("identity", identity.Run)
	services.Go("uplink", up.Run)
	services.Go("trainers", trainers.Run)
	services.Go("web", func(ctx context.Context) error { return a.web(ctx, metrics) })
	services.Go("reload", func(ctx context.Context) error { return reload.run(ctx, reloads) })
	services.Go("service manager", a.manage)
	a.log.Info("agent is up", "version", version.String(), "socket", a.config.Trainers.Socket,
		"metrics", a.config.Listen, "control plane", a.config.Uplink.Address, "state", a.config.StateDir)
	return nil
}
