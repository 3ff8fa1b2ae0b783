package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rogpeppe/go-internal/testscript"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/vigil-ml/vigil/alerting"
	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/access/accesstest"
	"github.com/vigil-ml/vigil/controlplane/api"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect/profile"
	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"agentctl": main})
}

// TestScripts runs every script in testdata against a control plane of its
// own, with a real store, bus, fleet and API. fixture_test.go has the commands
// that fill it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			in := install(t, filepath.Join(env.WorkDir, ".controlplane"), env.Defer)
			env.Values[installationKey{}] = in
			env.Setenv("VIGIL_SERVER", in.address)
			env.Setenv("VIGIL_TOKEN", in.doors.Secret)
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, ".state"))
			env.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"seed":  withInstallation(seed),
			"run":   withInstallation(putRun),
			"agent": withInstallation(connectAgent),
			"exits": exits,
		},
	})
}

type installationKey struct{}

// installation is the control plane of one script.
type installation struct {
	store     *store.Store
	bus       *bus.Bus
	fleet     *fleet.Fleet
	router    *routing.Router
	incidents *incident.Engine
	doors     *accesstest.Doors
	address   string
	stop      func() // ends the API
}

// install starts a control plane in a directory; later takes what ends it, to
// be run in reverse.
func install(t *testing.T, dir string, later func(func())) *installation {
	ctx, log, metrics := context.Background(), slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	tracer := noop.NewTracerProvider().Tracer("")
	in := &installation{}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	in.store, err = store.Open(ctx, store.Config{Path: filepath.Join(dir, "vigil.db")}, store.Deps{Log: log})
	must(err)
	later(func() { _ = in.store.Close() })
	in.bus, err = bus.Open(ctx, bus.Defaults(filepath.Join(dir, "bus")), bus.Deps{Log: log, Metrics: metrics})
	must(err)
	later(in.bus.Close)
	in.fleet = fleet.New(fleet.Config{RecordInterval: 100 * time.Millisecond}, fleet.Deps{
		Store: in.store, Log: log, Metrics: metrics, Tracer: tracer, Clock: time.Now,
	})
	in.doors = accesstest.Open(t, in.store, dir)
	plan, err := alerting.Config{Route: &route.Config{
		Receiver: "team", Routes: []route.Config{{Receiver: "oncall", Matchers: []string{`severity="critical"`}}},
	}}.Plan([]string{"team", "oncall"})
	must(err)
	in.router = routing.New(routing.Deps{Plan: plan, Store: in.store, Clock: time.Now, Log: log})
	in.incidents = incident.New(incident.Defaults(), incident.Deps{
		Router: in.router, Store: in.store, Clock: time.Now, Log: log, Tracer: tracer, Metrics: metrics,
	})
	group := life.NewGroup(ctx)
	group.Go("fleet", in.fleet.Run)
	later(func() { group.Stop(); must(group.Wait()) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	in.address = listener.Addr().String()
	in.serve(t, listener)
	later(func() { in.stop() })
	return in
}

// serve serves the API until stop is called.
func (in *installation) serve(t *testing.T, listener net.Listener) {
	profiles, err := profile.New(profile.Config{})
	if err != nil {
		t.Fatal(err)
	}
	served := api.New(api.Deps{
		Listener: listener, Store: in.store, Saver: in.fleet, History: in.bus, Profiles: profiles, Version: "v9",
		Incidents: in.incidents, Router: in.router,
		Guard: in.doors.Guard, Audit: in.doors.Audit, Tokens: in.doors.Tokens, Admin: access.NewAdmin(in.store), Nodes: in.doors.Nodes,
		People: in.doors.People, Keys: in.doors.People.Keys(), Progress: in.doors.People.Progress,
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Tracer: noop.NewTracerProvider().Tracer(""), Clock: time.Now,
	})
	group := life.NewGroup(context.Background())
	group.Go("api", served.Run)
	group.Go("record keys", in.doors.People.Sweep)
	in.stop = sync.OnceFunc(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("serve API: %v", err)
		}
	})
}

// exits is `exits CODE PROGRAM ARG...`: runs a program that must end with an
// exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want := args[0]; fmt.Sprint(code) != want {
		ts.Fatalf("%s ended with exit code %d, want %s", strings.Join(args[1:], " "), code, want)
	}
}

// withInstallation makes a script's command of a function on its control
// plane.
func withInstallation(do func(in *installation, args []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		ts.Check(do(ts.Value(installationKey{}).(*installation), args))
	}
}
