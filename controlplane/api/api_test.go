package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/access/accesstest"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect/profile"
	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/serve"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/idp"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// installation is a control plane's store, bus, fleet and API, all real.
type installation struct {
	store   *store.Store
	bus     *bus.Bus
	fleet   *fleet.Fleet
	metrics *prometheus.Registry
	address string
	doors   *accesstest.Doors
	// provider is where people sign in, without any grant.
	provider *idp.Provider
	conn     *grpc.ClientConn
	stop     func() // ends the API and the fleet
}

func install(t testing.TB) *installation {
	t.Helper()
	dir := t.TempDir()
	in := &installation{metrics: prometheus.NewRegistry()}
	var err error
	if in.store, err = store.Open(t.Context(), store.Config{Path: filepath.Join(dir, "vigil.db")}, store.Deps{Log: testkit.Logger(t)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.store.Close() })
	busConfig := bus.Defaults(filepath.Join(dir, "bus"))
	if in.bus, err = bus.Open(t.Context(), busConfig, bus.Deps{Log: testkit.Logger(t), Metrics: in.metrics}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.bus.Close)
	tracer := noop.NewTracerProvider().Tracer("")
	in.fleet = fleet.New(fleet.Defaults(), fleet.Deps{
		Store: in.store, Log: testkit.Logger(t), Metrics: in.metrics, Tracer: tracer, Clock: time.Now,
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	in.address = listener.Addr().String()
	profiles, err := profile.New(profile.Config{})
	if err != nil {
		t.Fatal(err)
	}
	in.provider = idp.Start(t, map[string]any{"sub": "somebody", "email": "ada@example.org", "name": "Ada Lovelace"})
	people, err := access.NewOIDC(access.OIDCConfig{
		Issuer: in.provider.Issuer(), ClientID: "vigil", Grants: []access.Grant{{Claim: "groups", Value: "ops", Roles: []string{"operator"}}},
	}, time.Now, func(string) string { return "abcdefghijklmnop" })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(people.Close)
	in.doors = accesstest.Open(t, in.store, dir, people)
	served := New(Deps{
		Guard: in.doors.Guard, Audit: in.doors.Audit, Tokens: in.doors.Tokens, Admin: access.NewAdmin(in.store), Nodes: in.doors.Nodes,
		People: in.doors.People, Keys: in.doors.People.Keys(), Progress: in.doors.People.Progress,
		Listener: listener, HTTP: http.NotFoundHandler(), Store: in.store, Saver: in.fleet, History: in.bus, Profiles: profiles,
		Version: "v9", Listeners: map[string]string{"operators": in.address},
		Log: testkit.Logger(t), Metrics: in.metrics, Tracer: tracer, Clock: time.Now,
	})
	group := life.NewGroup(context.Background())
	group.Go("fleet", in.fleet.Run)
	group.Go("api", served.Run)
	in.stop = func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(in.stop)
	in.conn, err = grpc.NewClient("passthrough:///"+in.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), serve.Bearer(in.doors.Secret, true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.conn.Close() })
	return in
}

func (in *installation) update(t *testing.T, do func(*store.Tx) error) {
	t.Helper()
	if err := in.store.Update(t.Context(), do); err != nil {
		t.Fatal(err)
	}
}

// putRun writes a run that trains on node n1, or one that ended.
func (in *installation) putRun(t *testing.T, id string, state controlv1.RunState) {
	t.Helper()
	run := &controlv1.Run{RunId: id, State: state, Nodes: []string{"n1"}, Started: timestamppb.Now()}
	if state > controlv1.RunState_RUN_STATE_RESTARTING {
		run.Ended = timestamppb.Now()
	}
	in.update(t, func(tx *store.Tx) error { return tx.PutRun(run, 1) })
}

// advance has a checkpoint reach a state.
func (in *installation) advance(ctx context.Context, progress *commonv1.CheckpointProgress, runID string) error {
	return in.store.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.AdvanceCheckpoint(progress, runID, 0, 1, "n1", time.Now())
		return err
	})
}

// connectAgent connects the agent of n1, which saves whatever it is told to.
func (in *installation) connectAgent(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	_, release := in.fleet.Connected(ctx, &agentv1.Hello{Node: "n1"}, func(m *agentv1.ConnectResponse) error {
		order := m.GetCommand().GetCheckpoint()
		for state := commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED; state <= commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED; state++ {
			err := in.advance(ctx, &commonv1.CheckpointProgress{CheckpointId: order.CheckpointId, State: state, Step: 12}, order.RunId)
			if err != nil {
				return err
			}
		}
		return nil
	})
	t.Cleanup(release)
}

// post calls a method as JSON and gives status and body.
func (in *installation) post(t *testing.T, method, body string) (int, string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+in.address+"/vigil.control.v1."+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+in.doors.Secret)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.ReplaceAll(string(text), " ", "")
}
