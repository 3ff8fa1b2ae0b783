// Package controlplane is the wiring of the control plane: it opens the parts,
// gives each what it needs, and starts them.
//
// The way of an event is: ingest, bus, pipeline (runs, detect, incident), and
// from there, after the commit, alerting and fleet. docs/ARCHITECTURE.md walks
// it.
package controlplane

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/vigil-ml/vigil/alerting"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/agreement"
	"github.com/vigil-ml/vigil/controlplane/alertapi"
	"github.com/vigil-ml/vigil/controlplane/api"
	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/authority"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/profile"
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/ingest"
	"github.com/vigil-ml/vigil/controlplane/load"
	"github.com/vigil-ml/vigil/controlplane/metrics"
	"github.com/vigil-ml/vigil/controlplane/people"
	"github.com/vigil-ml/vigil/controlplane/pipeline"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/serve"
	"github.com/vigil-ml/vigil/internal/telemetry"
	"github.com/vigil-ml/vigil/internal/telemetry/profiles"
	"github.com/vigil-ml/vigil/internal/version"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// Run runs a control plane until ctx ends. Its logs go to w.
func Run(ctx context.Context, config Config, w io.Writer) error {
	return RunReloading(ctx, config, nil, w)
}

// RunReloading is Run with configurations that take the first one's place, as far
// as that goes without a restart.
func RunReloading(ctx context.Context, config Config, reloads <-chan Config, w io.Writer) error {
	written := config
	if err := config.settle(); err != nil {
		return err
	}
	c := &controlPlane{config: config, console: w, metrics: telemetry.NewRegistry(), self: newReplica()}
	defer c.closeExporters()
	if err := c.speak(ctx, w); err != nil {
		return err
	}
	defer c.flush() // when the store was never opened
	c.readiness = &readiness{}
	ctx, done := c.readiness.untilDrained(ctx, config.DrainDelay)
	defer done()
	limit := load.SetLimit(config.MemoryLimitBytes)
	return life.Run(ctx, func(ctx context.Context, services, foundations *life.Group) error {
		foundations.Go("memory", holdMemory)
		c.load = load.New(limit, load.Deps{Clock: time.Now, Metrics: c.metrics})
		if err := c.open(ctx, foundations); err != nil {
			return err
		}
		return c.setup(ctx, services, reloader{written, reloads})
	})
}

// Check finds the mistakes in the settings of receivers, routes, detection rules and
// exporters; it starts nothing.
func Check(config Config) error {
	_, err := profile.New(config.Detection)
	return conf.Join(alerting.Check(config.Alerting), err, checkExports(config.Exports))
}

// controlPlane is the parts while they are put together.
type controlPlane struct {
	config  Config
	console io.Writer // where logs go
	log     *slog.Logger
	tracer  trace.Tracer
	metrics *prometheus.Registry

	self      store.Replica
	readiness *readiness
	load      *load.Gauge
	exports   *export.Metrics
	made      []export.Exporter // in the order of the configuration
	said      *telemetry.Relay  // where this control plane's telemetry goes; nil: nowhere
	flush     func()            // hands on what waits of it; once
	store     *store.Store
	bus       *bus.Bus
	samples   *metrics.DB
	audit     *audit.Log
	people    *people.Book
	refused   *prometheus.CounterVec // connections
}

// open opens what everything stands on.
func (c *controlPlane) open(ctx context.Context, foundations *life.Group) (err error) {
	// The bus is opened first: what is embedded is locked, so that then this is
	// the only process at work here.
	if c.bus, err = bus.Open(ctx, c.config.Bus, bus.Deps{Log: c.log, Metrics: c.metrics}); err != nil {
		return err
	}
	foundations.Go("bus", life.AtEnd(func() error { c.bus.Close(); return nil }))
	if c.store, err = store.Open(ctx, c.config.Store, store.Deps{
		Log: c.log, Changed: c.tellChanged, Metrics: c.metrics, Exports: len(c.config.Exports) > 0,
	}); err != nil {
		return err
	}
	foundations.Go("store", life.AtEnd(func() error {
		c.flush()
		return c.store.Close()
	}))
	c.keepTelemetry()
	if c.audit, err = audit.Open(ctx, c.config.Audit, audit.Deps{Store: c.store, Log: c.log, Metrics: c.metrics, Clock: time.Now}); err != nil {
		return err
	}
	if err := c.openPeople(ctx); err != nil {
		return err
	}
	if err := c.release(ctx); err != nil {
		return err
	}
	if c.samples, err = metrics.Open(c.config.Metrics, metrics.Deps{Log: c.log, Clock: time.Now, Metrics: c.metrics}); err != nil {
		return err
	}
	foundations.Go("metrics", life.AtEnd(c.samples.Close))
	return nil
}

// release has sent what a process before this one had leased, without waiting
// for its leases. Where there are others, they may be theirs.
func (c *controlPlane) release(ctx context.Context) error {
	if c.store.Shared() {
		return nil
	}
	released, err := c.store.Outbox().Release(ctx)
	if released > 0 {
		c.log.Info("notifications that a process before this one may have sent are sent again", "notifications", released)
	}
	return err
}

// setup makes the services and starts them. It is one straight line, longer
// than other functions, because its order is the order in which the parts
// depend on each other.
func (c *controlPlane) setup(ctx context.Context, services *life.Group, reload reloader) error {
	agents, err := serve.Listen(c.config.Agents.Listen, "agents", "agents.listen")
	if err != nil {
		return err
	}
	operators, err := serve.Listen(c.config.API.Listen, "operators", "api.listen")
	if err != nil {
		_ = agents.Close()
		return err
	}
	agents, operators = c.bound(agents, "agents", c.config.Agents.Connections), c.bound(operators, "api", c.config.API.Connections)
	listeners := map[string]string{"api": operators.Addr().String(), "agents": agents.Addr().String()}
	c.self.Address = listeners["api"]

	profiles, err := profile.New(c.config.Detection)
	if err != nil {
		return errors.Join(err, agents.Close(), operators.Close())
	}
	people := &desk{store: c.store, clock: time.Now}
	alerts, err := alerting.New(c.config.Alerting, alerting.Deps{
		Queue: c.store.Outbox(), Log: c.log, Metrics: c.metrics, Tracer: c.tracer,
		ExternalURL: c.config.API.external(listeners["api"]), Series: c.samples, Desk: people, Trouble: people,
		Memory: func(receiver string) notify.Memory { return c.store.Memory(receiver) },
	})
	if err != nil {
		return errors.Join(err, agents.Close(), operators.Close())
	}
	nodes := fleet.New(c.config.Fleet, fleet.Deps{
		Store: c.store, Bus: c.bus, Log: c.log, Metrics: c.metrics, Tracer: c.tracer, Clock: time.Now,
		Self: c.sharedID(), TookOver: c.tellTookOver,
	})
	plan, err := c.config.Alerting.Plan(alerts.Receivers())
	if err != nil {
		return errors.Join(err, agents.Close(), operators.Close())
	}
	router := routing.New(routing.Deps{Plan: plan, Store: c.store, Clock: time.Now, Log: c.log, Metrics: c.metrics, Followers: alerts.Followers()})
	incidents := incident.New(c.config.Incident, incident.Deps{
		Router: router, Save: nodes.RequestCheckpoint, Judge: nodes.Judge, Store: c.store,
		Clock: time.Now, Log: c.log, Tracer: c.tracer, Metrics: c.metrics,
	})
	people.incidents = incidents
	ruled, err := c.samples.NewRules(metrics.RuleDeps{
		Tell: people.rules, ExternalURL: c.config.API.external(listeners["api"]), Metrics: c.metrics, Log: c.log,
	})
	if err != nil {
		return errors.Join(err, agents.Close(), operators.Close())
	}
	exports := c.exporters(people)
	var frames *ingest.Service
	events := pipeline.Partitioned(pipeline.Deps{
		Store: c.store, Incidents: incidents, Audit: c.keyUsed, Busy: func() bool { return frames.Busy() },
		NewBank: func() pipeline.Bank { return detect.NewBankOf(profiles.Choose).WatchNodes(profiles.Nodes()) },
		Clock:   time.Now, Log: c.log, Tracer: c.tracer, Metrics: c.metrics,
	}, c.bus)
	c.metrics.MustRegister(&backlog{c.store, c.bus, exports, events, time.Now})
	doors, err := c.openDoors(ctx, services, listeners)
	if err != nil {
		return errors.Join(err, agents.Close(), operators.Close())
	}
	frames = ingest.New(c.config.Ingest, ingest.Deps{
		Bus: c.bus, Samples: c.samples, Fleet: nodes, Load: c.load, Admit: doors.authority.Admit,
		Log: c.log, Metrics: c.metrics, Tracer: c.tracer, Clock: time.Now,
	})
	old := c.retention()
	operatorAPI := api.New(api.Deps{
		Listener: operators, TLS: doors.tls, HTTP: c.web(events, incidents, router, alerts, doors), Store: c.store, Saver: nodes, Incidents: incidents, Router: router,
		History: c.bus, Profiles: profiles, Receivers: alerts, Exports: exports,
		People: c.people, Keys: c.people.Keys(), Progress: c.people.Progress,
		Guard: doors.guard, Load: c.load, Audit: c.audit, Tokens: doors.tokens, Admin: doors.admin, Nodes: doors.authority,
		Version: version.String(), Listeners: listeners, Retention: old.Kept(),
		Log: c.log, Metrics: c.metrics, Tracer: c.tracer, Clock: time.Now,
	})

	services.Go("alerting", alerts.Run)
	services.Go("fleet", nodes.Run)
	services.Go("hints", func(ctx context.Context) error { return c.hear(ctx, nodes) })
	services.Go("duties", c.duties(events, incidents, router, nodes, exports, old).Run)
	services.Go("audit", c.audit.Run)
	services.Go("people", c.people.Watch)
	services.Go("ingest", frames.Run)
	services.Go("reload", func(ctx context.Context) error { return reload.run(ctx, frames, c.log) })
	services.Go("authority", doors.authority.Run)
	services.Go("agents", serveAgents(agents, frames, doors.authority, agreement.New(agreement.Deps{Store: c.store, Known: doors.authority.Caller})))
	services.Go("rules", ruled.Run)
	services.Go("api", operatorAPI.Run)
	c.log.Info("control plane is up", "version", version.String(), "api", listeners["api"], "agents", listeners["agents"], "state", c.config.StateDir)
	return nil
}

// web is what the operators' port answers besides the API.
func (c *controlPlane) web(events []*pipeline.Pipeline, incidents *incident.Engine, router *routing.Router, told *alerting.Alerting, doors *doors) http.Handler {
	mux := http.NewServeMux()
	telemetry.Handle(mux, telemetry.Metrics(c.metrics), healthy(events))
	profiles.Handle(mux)
	mux.Handle("GET /readyz", c.ready(events))
	mux.Handle("/api/v1/", shedding(c.load, ofMetrics, c.samples.Handler()))
	mux.Handle(notify.CallbackPath, told.Callbacks())
	alerts := alertapi.New(alertapi.Deps{
		Store: c.store, Incidents: incidents, Router: router, Config: router.Config, Clock: time.Now, Log: c.log, Version: version.String(),
		Self: c.sharedID(), Name: c.people.Name,
	})
	mux.Handle("/api/v2/", shedding(c.load, ofOperators, alerts))
	mux.Handle("/ping/", alerts)
	mux.Handle("/-/", alerts)
	if doors.people != nil {
		mux.Handle(access.SignInPath, doors.people)
	}
	return mux
}

// serveAgents serves the agents' streams; when it ends, ingest ends them.
func serveAgents(listener net.Listener, frames *ingest.Service, nodes *authority.Authority, ranks *agreement.Service) func(context.Context) error {
	server := grpc.NewServer(append(frames.ServerOptions(),
		grpc.Creds(ingest.Handshakes(credentials.NewTLS(nodes.TLS()))), grpc.StreamInterceptor(nodes.Stream), grpc.ConnectionTimeout(protocol.ConnectTimeout))...)
	agentv1.RegisterAgentServiceServer(server, frames)
	agentv1.RegisterEnrollmentServiceServer(server, nodes)
	agentv1.RegisterAgreementServiceServer(server, ranks)
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, server.GracefulStop)
		defer stop()
		return server.Serve(listener)
	}
}
