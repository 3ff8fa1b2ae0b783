package agent

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/compat"
	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/agent/page"
	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/serve"
	"github.com/vigil-ml/vigil/internal/telemetry"
	"github.com/vigil-ml/vigil/internal/version"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const maxMessageBytes = 4 << 20

// hello says who this agent is.
func (a *agent) hello() *agentv1.Hello {
	return &agentv1.Hello{
		Node: a.config.Node, BootId: line("/proc/sys/kernel/random/boot_id"), Version: version.String(),
		Capabilities: []string{"checkpoint"}, MaxMessageBytes: maxMessageBytes,
		Facts: map[string]string{
			"os": runtime.GOOS + "/" + runtime.GOARCH, "kernel": line("/proc/sys/kernel/osrelease"),
			"cpus": strconv.Itoa(runtime.NumCPU()),
		},
	}
}

// line is the content of a one-line file; empty where there is none.
func line(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// fault records what the node says is broken, and tells the reflex.
func (a *agent) fault(observe func(*commonv1.Event)) func(context.Context, *commonv1.NodeFault) error {
	return func(ctx context.Context, fault *commonv1.NodeFault) error {
		event := faultEvent(fault)
		if err := a.record(ctx, event); err != nil {
			return err
		}
		observe(event)
		return nil
	}
}

// faultEvent makes a fault's event. A fault that has a key has the same event
// id every time, so that the journal leaves out what is told again.
func faultEvent(fault *commonv1.NodeFault) *commonv1.Event {
	event := &commonv1.Event{Time: fault.Time, Body: &commonv1.Event_NodeFault{NodeFault: fault}}
	if fault.Key != "" {
		event.EventId = uuid.NewSHA1(uuid.NameSpaceOID, []byte(fault.Key)).String()
	}
	return event
}

// record records an event of the node.
func (a *agent) record(ctx context.Context, event *commonv1.Event) error {
	return a.journal.Events(ctx, "", event)
}

// runs gives the runs that have a training process here.
func runs(sessions *localapi.Sessions) func() []string {
	return func() []string {
		names := map[string]bool{}
		for _, s := range sessions.Everyone() {
			names[s.RunID] = true
		}
		return slices.Collect(maps.Keys(names))
	}
}

// registered gives the training processes as collectors know them.
func registered(sessions *localapi.Sessions) func() []collect.Trainer {
	return func() []collect.Trainer {
		var all []collect.Trainer
		for _, s := range sessions.Everyone() {
			all = append(all, collect.Trainer{RunID: s.RunID, Attempt: s.Attempt, Rank: s.Rank, PID: s.PID})
		}
		// A command without the SDK is what its supervisor started.
		for _, s := range sessions.Supervised() {
			if !slices.ContainsFunc(all, func(t collect.Trainer) bool { return t.RunID == s.RunID }) {
				all = append(all, collect.Trainer{RunID: s.RunID, Attempt: s.Attempt, PID: s.PID})
			}
		}
		return all
	}
}

// eager is a vault for whose work all cores are there when it begins.
type eager struct {
	*vault.Vault
	raise func()
}

// Begin begins a checkpoint.
func (e eager) Begin(ctx context.Context, req vault.BeginRequest) (id, dir string, err error) {
	e.raise()
	return e.Vault.Begin(ctx, req)
}

// Commit takes what was begun over.
func (e eager) Commit(ctx context.Context, req vault.CommitRequest) error {
	e.raise()
	return e.Vault.Commit(ctx, req)
}

// Resolve finds and reads what to go on from.
func (e eager) Resolve(ctx context.Context, req vault.ResolveRequest) (*commonv1.CheckpointRef, []*trainerv1.PassedOver, error) {
	e.raise()
	return e.Vault.Resolve(ctx, req)
}

// busiestGPU gives the utilization of the node's busiest GPU out of the samples
// that were taken last.
func busiestGPU(latest func(yield func(metric.Sample) bool)) func() (busy float64, known bool) {
	return func() (busy float64, known bool) {
		for s := range latest {
			if s.Def.Name == metric.GPUUtilization.Name {
				busy, known = max(busy, s.Value), true
			}
		}
		return busy, known
	}
}

// heartbeat gives what says how this agent is.
func (a *agent) heartbeat(collectors *collect.Runner, reload *reloader) func() *agentv1.Heartbeat {
	return func() *agentv1.Heartbeat {
		events, samples := a.events.Stats(), a.samples.Stats()
		states := map[string]string{}
		for name, status := range collectors.Statuses() {
			states[name] = string(status)
		}
		return &agentv1.Heartbeat{
			Time: timestamppb.Now(), SpooledEventFrames: events.Frames, SpooledSampleFrames: samples.Frames,
			DroppedFrames: events.Dropped + samples.Dropped, DroppedEventFrames: events.Dropped, Collectors: states,
			Settings: reload.settings.Load(),
		}
	}
}

// metricsPage shows what the agent counts about itself and what is measured, under
// the names of other exporters too where the configuration wants them.
func (a *agent) metricsPage(collectors *collect.Runner) (http.Handler, error) {
	formats, err := compat.Parse(a.config.Compat)
	if err != nil {
		return nil, err
	}
	sources := []page.Source{collectors.Show}
	for _, format := range formats {
		sources = append(sources, compat.New(format, compat.Deps{Latest: collectors.Latest, Host: a.config.Node, Clock: time.Now}))
	}
	return page.Handler(a.metrics, sources...), nil
}

// reachable tells whether trainers can reach this agent.
func (a *agent) reachable() error {
	conn, err := net.DialTimeout("unix", a.config.Trainers.Socket, time.Second)
	if err != nil {
		return fmt.Errorf("reach the trainers' socket: %w", err)
	}
	return conn.Close()
}

// warnOfOthers says when the socket is for users whose trainers could not save.
func (a *agent) warnOfOthers(why func() error) {
	if a.config.Trainers.SocketMode == localapi.Defaults("").SocketMode {
		return
	}
	if err := why(); err != nil {
		a.log.Warn("trainers of other users cannot save checkpoints here", "error", err, "hint", fault.HintOf(err))
	}
}

// web serves /metrics and /healthz.
func (a *agent) web(ctx context.Context, metrics http.Handler) error {
	listener, err := serve.Listen(a.config.Listen, "metrics", "listen")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	telemetry.Handle(mux, metrics, a.reachable)
	refused := metric.NewCounter(a.metrics, metric.AgentReadersRefused).WithLabelValues()
	return serveReaders(ctx, listener, mux, readerWait, refused.Inc)
}
