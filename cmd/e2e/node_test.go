package e2e

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/enroll"
	"github.com/vigil-ml/vigil/agent/journal"
	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/agent/uplink"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/site"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// gpuNode is the agent's own parts, journal, spool and uplink, on a machine of
// which the test says what breaks.
type gpuNode struct {
	t        *testing.T
	journal  *journal.Journal
	stop     func()
	up       *uplink.Uplink
	identity *enroll.Identity
	metrics  *prometheus.Registry
}

// sessions is how many sessions its uplink opened.
func (n *gpuNode) sessions() float64 {
	n.t.Helper()
	families, err := n.metrics.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == metric.AgentUplinkSessions.Name {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

type noCommands struct{}

func (noCommands) Execute(context.Context, *agentv1.Command) {}

func startGPUNode(t *testing.T, name, address string) *gpuNode {
	t.Helper()
	dir, log := t.TempDir(), testkit.Logger(t)
	spools := map[string]*spool.Spool{}
	for _, class := range []string{"events", "samples"} {
		s, err := spool.Open(spool.Defaults(filepath.Join(dir, class)), spool.Deps{FS: durable.OS{}, Log: log, Class: class})
		if err != nil {
			t.Fatal(err)
		}
		spools[class] = s
	}
	j, err := journal.Open(journal.Config{Dir: filepath.Join(dir, "journal"), MaxSeries: 10}, journal.Deps{
		Node: name, Events: spools["events"], Samples: spools["samples"], FS: durable.OS{}, Log: log,
		Metrics: prometheus.NewRegistry(), Tracer: noop.NewTracerProvider().Tracer(""), Clock: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	config := uplink.Defaults()
	config.Address, config.BackoffMax = address, 100*time.Millisecond
	identity, err := enroll.Open(enroll.Config{Path: filepath.Join(dir, "identity.pem"), Node: name, Address: address}, log)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	up := uplink.New(config, uplink.Deps{
		Credentials: identity.Credentials,
		Events:      spools["events"], Samples: spools["samples"], Series: j, Commands: noCommands{},
		Hello: func() *agentv1.Hello { return &agentv1.Hello{Node: name, Revision: protocol.Revision} },
		Heartbeat: func() *agentv1.Heartbeat {
			return &agentv1.Heartbeat{Time: timestamppb.Now()}
		},
		Log: log, Metrics: registry,
	})
	group := life.NewGroup(context.Background())
	group.Go("uplink", up.Run)
	group.Go("events", spools["events"].Run)
	group.Go("samples", spools["samples"].Run)
	stop := sync.OnceFunc(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
		_ = j.Close()
		_, _ = spools["events"].Close(), spools["samples"].Close()
	})
	t.Cleanup(stop)
	return &gpuNode{t, j, stop, up, identity, registry}
}

func (n *gpuNode) say(run string, events ...*commonv1.Event) {
	n.t.Helper()
	if err := n.journal.Events(n.t.Context(), run, events...); err != nil {
		n.t.Fatal(err)
	}
}

// hook keeps what a webhook was told.
type hook struct {
	mu     sync.Mutex
	bodies []string
	keys   []string
}

func (h *hook) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	// A control plane that is killed before it has noted the answer sends the
	// notification again, under the same key.
	key := r.Header.Get("Idempotency-Key")
	if key != "" && slices.Contains(h.keys, key) {
		return
	}
	h.keys, h.bodies = append(h.keys, key), append(h.bodies, string(body))
}

// told counts the notifications that have all the words.
func (h *hook) told(words ...string) (count int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, body := range h.bodies {
		all := true
		for _, word := range words {
			all = all && strings.Contains(body, word)
		}
		if all {
			count++
		}
	}
	return count
}

// TestNodeFaultIsTold has a GPU fall off the bus under a run, the control plane
// killed in between, and the node lost at the end: each is told once, with node
// and GPU, and the run's crash is part of the fault's incident.
func TestNodeFaultIsTold(t *testing.T) {
	receiver := &hook{}
	server := httptest.NewServer(receiver)
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	s, err := site.Plan(filepath.Join(t.TempDir(), "site"), os.Getenv(binVariable))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Site: s, t: t, ctx: ctx, controlMore: "alerting: {receivers: [{name: hook, webhook: {url: \"" + server.URL + "\"}}]}\n" +
		"ingest: {heartbeat_interval: 300ms}\nfleet: {lost_after: 1s}\n"}
	t.Cleanup(h.close)
	h.startControlPlane()

	n := startGPUNode(t, "gpu-01", s.Agents)
	step, register := int64(40), &commonv1.TrainerRegistered{WorldSize: 1, Pid: 77}
	n.say("r", &commonv1.Event{Body: &commonv1.Event_TrainerRegistered{TrainerRegistered: register}},
		&commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: step}}})
	n.say("", &commonv1.Event{Body: &commonv1.Event_NodeReport{NodeReport: &commonv1.NodeReport{
		IntervalSeconds: 10, Gpus: []*commonv1.GpuReport{{Index: 3, Uuid: "GPU-abc", Pids: []int64{77}}},
		Processes: []*commonv1.ProcessReport{{RunId: "r", Pid: 77}},
	}}})
	n.say("", &commonv1.Event{EventId: "once", Body: &commonv1.Event_NodeFault{NodeFault: &commonv1.NodeFault{
		Kind: commonv1.FaultKind_FAULT_KIND_XID, Code: 79, Gpu: proto.Uint32(3), Pid: 77, Title: "GPU has fallen off the bus", Source: "kmsg",
	}}})
	testkit.Eventually(t, "the fault to be told", func() bool {
		return receiver.told("gpu-01", "GPU 3", "fallen off the bus", "firing") == 1
	})

	h.controlPlane.Kill()
	n.say("r", &commonv1.Event{Body: &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{
		Failure: commonv1.FailureKind_FAILURE_KIND_CRASH, Restarting: true,
	}}})
	h.startControlPlane()
	nodes := controlv1.NewNodeServiceClient(h.Conn())
	var got *controlv1.GetNodeResponse
	testkit.Eventually(t, "the crash to be part of the incident", func() bool {
		got, err = nodes.GetNode(ctx, &controlv1.GetNodeRequest{Node: "gpu-01"})
		return err == nil && len(got.Incidents) == 1 && len(got.Incidents[0].Findings) == 2
	})
	i := got.Incidents[0]
	if i.RunId != "r" || i.Kind != "xid" || i.Findings[1].GetCause().GetFindingId() != i.Findings[0].FindingId || !strings.HasPrefix(i.Summary, "XID 79") {
		t.Errorf("incident: %v", i)
	}
	if stdout, _, _ := h.agentctl("describe", "node", "gpu-01"); !strings.Contains(stdout, "XID 79") || !strings.Contains(stdout, "gpu-01") {
		t.Errorf("describe node:\n%s", stdout)
	}
	testkit.Eventually(t, "the node to be heard again", func() bool {
		got, err = nodes.GetNode(ctx, &controlv1.GetNodeRequest{Node: "gpu-01"})
		return err == nil && got.Node.State == controlv1.NodeState_NODE_STATE_CONNECTED
	})

	n.stop()
	testkit.Eventually(t, "the lost node to be told", func() bool {
		return receiver.told("node-lost", "gpu-01", "firing") == 1
	})
	if stdout, _, _ := h.agentctl("get", "events", "--node", "gpu-01"); strings.Count(stdout, "fault: xid 79") != 1 || !strings.Contains(stdout, "control plane: lost") {
		t.Errorf("get events --node:\n%s", stdout)
	}
	if told := receiver.told("fallen off the bus"); told != 1 {
		t.Errorf("the fault was told %d times", told)
	}
}
