// Package api is what operators and machines ask of the control plane: the
// services of vigil.control.v1 as gRPC and as JSON on one port, next to
// whatever else that port serves. agentctl and the console use nothing else.
//
// A service is one small file. What a method returns crosses one boundary,
// [boundary], which gives errors their codes and hints, counts, and turns a
// panic into an error. A stream ends with code UNAVAILABLE when the control
// plane goes down.
package api

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/tap"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect/profile"
	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/load"
	"github.com/vigil-ml/vigil/controlplane/retain"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/serve"
	gateway "github.com/vigil-ml/vigil/proto/gateway/vigil/control/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// What one connection of operators may take.
const (
	handshakeTime  = 20 * time.Second
	idleTime       = 5 * time.Minute // without a call; then it is ended
	pingTime       = time.Minute     // of silence, after which it is asked whether anyone is there
	maxHeaderBytes = 64 << 10
	maxStreams     = 1000 // calls at once
)

// Saver has runs saved, and things done with what was saved; the fleet does.
type Saver interface {
	// RequestCheckpoint writes what is to be done into the transaction.
	RequestCheckpoint(tx *store.Tx, request fleet.SaveRequest) (*controlv1.Checkpoint, error)
	// RequestTask does the same for what is to be done with a checkpoint.
	RequestTask(tx *store.Tx, checkpointID string, action commonv1.CheckpointAction, reason string) (*controlv1.CheckpointTask, error)
	// RequestKeyTask does the same for what is to be done with the keys of the vault
	// that has a checkpoint.
	RequestKeyTask(tx *store.Tx, c *controlv1.Checkpoint, action commonv1.CheckpointAction) (*controlv1.CheckpointTask, error)
	// RequestProfile does the same for a profile of a run.
	RequestProfile(tx *store.Tx, request fleet.ProfileRequest) (*controlv1.ProfileRunResponse, error)
}

// History has the events of runs; the bus does.
type History interface {
	// HistoryWithNodes yields the frames of one run, and those of the nodes that are named
	// which have no run, from the run's first, and where told to follow those that
	// come, until ctx ends, which is no error, or yield fails.
	HistoryWithNodes(ctx context.Context, runID string, nodes []string, follow bool, yield func(bus.Delivery) error) error
	// LastOfRun gives the sequence of a run's last frame, and News yields those after one.
	LastOfRun(ctx context.Context, runID string) (uint64, error)
	News(ctx context.Context, runID string, last uint64, yield func(bus.Delivery) error) error
	// NodeHistory does the same as HistoryWithNodes for a node's own events alone.
	NodeHistory(ctx context.Context, node string, follow bool, yield func(bus.Delivery) error) error
}

// Guard lets calls in, or not; access has one. It knows the caller and records
// what is done.
type Guard interface {
	// Unary and Stream are interceptors of the gRPC server.
	Unary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error)
	Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error
	// Head tells whether a gRPC call is read at all, by what comes before its message;
	// it must be quick. Admit does so for a call by JSON.
	Head(ctx context.Context) error
	Admit(r *http.Request) error
	// Web lets requests in that are no calls of a method.
	Web(next http.Handler) http.Handler
}

// Deps is what code injects.
type Deps struct {
	Listener  net.Listener // Run closes it
	TLS       *tls.Config  // how it speaks; nil is plainly, for loopback alone
	HTTP      http.Handler // answers the paths that are no method; may be nil
	Store     *store.Store
	Saver     Saver
	Incidents Incidents
	Router    Router
	History   History
	Profiles  *profile.Profiles // the settings of the detection rules
	Receivers Receivers
	Guard     Guard       // lets callers in
	Load      *load.Gauge // refuses calls for want of memory; may be nil
	Audit     *audit.Log
	Tokens    Tokens
	Admin     LocalAdmin
	Nodes     Nodes // lets nodes in
	Exports   Exports
	People    People
	Keys      RecordKeys
	// Progress tells how many records there are to be encrypted, and how many are
	// with the primary key.
	Progress  func(ctx context.Context) (total, done int64, err error)
	Version   string            // of the control plane
	Listeners map[string]string // addresses by purpose, for GetStatus
	Retention []retain.Kept     // how long records are kept, for GetStatus
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	Tracer    trace.Tracer
	Clock     func() time.Time
}

// API serves the operators. Make one with [New].
type API struct {
	deps     Deps
	boundary *boundary
	started  time.Time
}

// New makes an API; it serves nothing until [API.Run].
func New(deps Deps) *API {
	return &API{deps: deps, boundary: newBoundary(deps), started: deps.Clock()}
}

// Run serves until ctx ends, then lets calls in flight finish for a few
// seconds.
func (a *API) Run(ctx context.Context) error {
	server := grpc.NewServer(
		grpc.ConnectionTimeout(handshakeTime), grpc.MaxHeaderListSize(maxHeaderBytes), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime, Time: pingTime}),
		grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
			return ctx, leaving(a.deps.Guard.Head(ctx))
		}),
		grpc.ChainUnaryInterceptor(a.boundary.unary, a.deps.Guard.Unary),
		grpc.ChainStreamInterceptor(a.boundary.streamUntil(ctx), a.deps.Guard.Stream),
	)
	a.register(server)
	return serve.Both(ctx, a.deps.Listener, serve.Options{
		GRPC: server,
		JSON: []serve.Register{
			gateway.RegisterNodeServiceHandler,
			gateway.RegisterRunServiceHandler,
			gateway.RegisterIncidentServiceHandler,
			gateway.RegisterCheckpointServiceHandler,
			gateway.RegisterCheckpointTaskServiceHandler,
			gateway.RegisterSilenceServiceHandler,
			gateway.RegisterAlertServiceHandler,
			gateway.RegisterReceiverServiceHandler,
			gateway.RegisterSystemServiceHandler,
			gateway.RegisterFindingServiceHandler,
			gateway.RegisterAuditServiceHandler,
			gateway.RegisterAccessServiceHandler,
			gateway.RegisterIdentityServiceHandler,
			gateway.RegisterExportServiceHandler,
			gateway.RegisterPeopleServiceHandler,
			gateway.RegisterKeyServiceHandler,
		},
		HTTP:                a.deps.Guard.Web(a.deps.HTTP),
		Admit:               func(r *http.Request) error { return leaving(a.deps.Guard.Admit(r)) },
		TLS:                 a.deps.TLS,
		RefuseUnknownFields: true,
	})
}

func (a *API) register(to grpc.ServiceRegistrar) {
	controlv1.RegisterNodeServiceServer(to, &nodes{store: a.deps.Store, history: a.deps.History})
	controlv1.RegisterRunServiceServer(to, &runs{
		store: a.deps.Store, history: a.deps.History, saver: a.deps.Saver, tracer: a.deps.Tracer,
	})
	controlv1.RegisterFindingServiceServer(to, &findings{store: a.deps.Store, profiles: a.deps.Profiles, clock: a.deps.Clock})
	controlv1.RegisterIncidentServiceServer(to, &incidents{store: a.deps.Store, acts: a.deps.Incidents})
	controlv1.RegisterSilenceServiceServer(to, &silences{store: a.deps.Store, router: a.deps.Router, clock: a.deps.Clock})
	controlv1.RegisterAlertServiceServer(to, &alerts{store: a.deps.Store, router: a.deps.Router, clock: a.deps.Clock})
	controlv1.RegisterCheckpointServiceServer(to, &checkpoints{
		store: a.deps.Store, saver: a.deps.Saver, tracer: a.deps.Tracer,
	})
	controlv1.RegisterCheckpointTaskServiceServer(to, &tasks{store: a.deps.Store, saver: a.deps.Saver})
	controlv1.RegisterReceiverServiceServer(to, &receivers{store: a.deps.Store, receivers: a.deps.Receivers})
	controlv1.RegisterAuditServiceServer(to, &records{log: a.deps.Audit, clock: a.deps.Clock})
	controlv1.RegisterAccessServiceServer(to, &identities{store: a.deps.Store, tokens: a.deps.Tokens, admin: a.deps.Admin})
	controlv1.RegisterPeopleServiceServer(to, &persons{store: a.deps.Store, people: a.deps.People, log: a.deps.Audit})
	controlv1.RegisterKeyServiceServer(to, &recordKeys{keys: a.deps.Keys, progress: a.deps.Progress})
	controlv1.RegisterExportServiceServer(to, &exports{exports: a.deps.Exports})
	controlv1.RegisterIdentityServiceServer(to, &nodeIdentities{store: a.deps.Store, nodes: a.deps.Nodes, address: a.deps.Listeners["agents"]})
	controlv1.RegisterSystemServiceServer(to, &system{
		version: a.deps.Version, listeners: a.deps.Listeners, started: a.started, kept: a.deps.Retention,
	})
}
