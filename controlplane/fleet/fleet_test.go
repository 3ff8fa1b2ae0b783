package fleet

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openStore opens a real store in a directory of the test's.
func openStore(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "vigil.db")}, store.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return s
}

// newFleet makes a fleet on a store, recording every beat quickly.
func newFleet(t testing.TB, s *store.Store) *Fleet {
	return New(Config{RecordInterval: 100 * time.Millisecond}, Deps{
		Store: s, Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(),
		Tracer: noop.NewTracerProvider().Tracer(""), Clock: time.Now,
	})
}

// run runs a fleet until the test ends or the returned function is called.
func run(t testing.TB, f *Fleet) (stop func()) {
	t.Helper()
	group := life.NewGroup(context.Background())
	group.Go("fleet", f.Run)
	stop = func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("fleet: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// agent is one end of a session: what it was sent.
type agent struct {
	commands chan *agentv1.Command
	live     context.Context
	release  func()
}

func connect(t testing.TB, f *Fleet, node string) *agent {
	t.Helper()
	a := &agent{commands: make(chan *agentv1.Command, 16)}
	hello := &agentv1.Hello{Node: node, Version: "v1", Facts: map[string]string{"os": "linux"}}
	a.live, a.release = f.Connected(context.Background(), hello, func(m *agentv1.ConnectResponse) error {
		a.commands <- m.GetCommand()
		return nil
	})
	t.Cleanup(a.release)
	return a
}

// next waits for the next command.
func (a *agent) next(t testing.TB) *agentv1.Command {
	t.Helper()
	select {
	case c := <-a.commands:
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("no command came within ten seconds")
		return nil
	}
}

// putRun writes a run that trains on nodes, or one that ended.
func putRun(t testing.TB, s *store.Store, id string, state controlv1.RunState, nodes ...string) {
	t.Helper()
	r := &controlv1.Run{RunId: id, State: state, Nodes: nodes, Started: timestamppb.Now()}
	if state > controlv1.RunState_RUN_STATE_RESTARTING {
		r.Ended = timestamppb.Now()
	}
	update(t, s, func(tx *store.Tx) error { return tx.PutRun(r, 1) })
}

func update(t testing.TB, s *store.Store, do func(*store.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), do); err != nil {
		t.Fatal(err)
	}
}

// save requests a checkpoint in a transaction of its own.
func save(t testing.TB, f *Fleet, request SaveRequest) (checkpoint *controlv1.Checkpoint, err error) {
	t.Helper()
	err = f.deps.Store.Update(t.Context(), func(tx *store.Tx) (err error) {
		checkpoint, err = f.RequestCheckpoint(tx, request)
		return err
	})
	return checkpoint, err
}

func mustSave(t testing.TB, f *Fleet, request SaveRequest) *controlv1.Checkpoint {
	t.Helper()
	checkpoint, err := save(t, f, request)
	if err != nil {
		t.Fatal(err)
	}
	return checkpoint
}

// view reads something from the store.
func view[T any](t testing.TB, s *store.Store, read func(*store.Tx) (T, error)) (got T) {
	t.Helper()
	err := s.View(t.Context(), func(tx *store.Tx) (err error) {
		got, err = read(tx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestConfigCheck(t *testing.T) {
	for interval, wrong := range map[time.Duration]bool{
		Defaults().RecordInterval: false,
		time.Millisecond:          true,
		time.Hour:                 true,
	} {
		reported := false
		Config{RecordInterval: interval, LostAfter: time.Minute}.Check(func(string, string, ...any) { reported = true })
		if reported != wrong {
			t.Errorf("%v: reported %v, want %v", interval, reported, wrong)
		}
	}
}
