package api

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/protocol"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// seed writes one of everything and gives it as GetRun shall show it.
func (in *installation) seed(t *testing.T) *controlv1.GetRunResponse {
	t.Helper()
	at := timestamppb.New(time.Unix(1e9, 0))
	want := &controlv1.GetRunResponse{
		Run:      &controlv1.Run{RunId: "r1", State: controlv1.RunState_RUN_STATE_RUNNING, Started: at, Nodes: []string{"n1"}},
		Attempts: []*controlv1.Attempt{{Attempt: 0, Started: at}, {Attempt: 1, Started: at, ResumedStep: 3}},
		Incidents: []*controlv1.Incident{{
			IncidentId: "i1", RunId: "r1", Kind: "nonfinite", State: controlv1.IncidentState_INCIDENT_STATE_FIRING, Opened: at,
			Timeline: []*controlv1.TimelineEntry{{Time: at, Action: "opened", Text: "It broke."}},
		}},
		Checkpoints: []*controlv1.Checkpoint{{CheckpointId: "c1", RunId: "r1", Stages: []*controlv1.StageTime{{State: commonv1.CheckpointState_CHECKPOINT_STATE_STAGED, Time: at}}}},
	}
	in.update(t, func(tx *store.Tx) error {
		if err := tx.PutRun(want.Run, 1); err != nil {
			return err
		}
		for _, attempt := range want.Attempts {
			if err := tx.PutAttempt("r1", attempt); err != nil {
				return err
			}
		}
		if err := tx.PutIncident(store.IncidentRecord{Incident: want.Incidents[0]}); err != nil {
			return err
		}
		if err := tx.AddTimeline("i1", want.Incidents[0].Timeline[0]); err != nil {
			return err
		}
		if err := tx.PutCheckpoint(want.Checkpoints[0]); err != nil {
			return err
		}
		return tx.PutNode(&controlv1.Node{Name: "n1"})
	})
	return want
}

func TestReads(t *testing.T) {
	in := install(t)
	want := in.seed(t)
	run, err := controlv1.NewRunServiceClient(in.conn).GetRun(t.Context(), &controlv1.GetRunRequest{RunId: "r1"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, run, protocmp.Transform()); diff != "" {
		t.Errorf("GetRun (-want +got):\n%s", diff)
	}
	for method, says := range map[string]string{
		"RunService/ListRuns":                              `"runId":"r1"`,
		"NodeService/ListNodes":                            `"name":"n1"`,
		`IncidentService/ListIncidents {"runId":"r1"}`:     `"timeline":[]`,
		`IncidentService/GetIncident {"incidentId":"i1"}`:  `"text":"Itbroke."`,
		`CheckpointService/ListCheckpoints {"limit":1000}`: `"checkpointId":"c1"`,
		"SystemService/GetStatus":                          `"version":"v9"`,
	} {
		name, body, _ := strings.Cut(method, " ")
		if body == "" {
			body = "{}"
		}
		if code, got := in.post(t, name, body); code != 200 || !strings.Contains(got, says) {
			t.Errorf("%s: %d %s, want %s", method, code, got, says)
		}
	}
	out, err := controlv1.NewSystemServiceClient(in.conn).GetStatus(t.Context(), &controlv1.GetStatusRequest{})
	if err != nil || out.AgentRevision != protocol.Revision || out.Listeners["operators"] != in.address {
		t.Errorf("GetStatus = %v, %v", out, err)
	}
}

func TestBadRequests(t *testing.T) {
	in := install(t)
	in.putRun(t, "r1", controlv1.RunState_RUN_STATE_RUNNING)
	for _, tc := range []struct {
		method, body string
		code         int
		says         string
	}{
		{"RunService/ListRuns", `{"limit":-1}`, 400, "limitis-1"},
		{"RunService/ListRuns", `{"limit":1001}`, 400, "1to1000"},
		{"RunService/ListRuns", `{"limmit":1}`, 400, "limmit"},
		{"RunService/GetRun", `{}`, 400, "run_idisempty"},
		{"RunService/GetRun", `{"runId":"nobody"}`, 404, "getrunslists"},
		{"IncidentService/ListIncidents", `{"limit":-1}`, 400, "limit"},
		{"IncidentService/ListIncidents", `{"runId":"nobody"}`, 404, "nobody"},
		{"IncidentService/GetIncident", `{}`, 400, "incident_id"},
		{"IncidentService/GetIncident", `{"incidentId":"i"}`, 404, "getincidents"},
		{"CheckpointService/ListCheckpoints", `{"limit":-1}`, 400, "limit"},
		{"CheckpointService/ListCheckpoints", `{"runId":"nobody"}`, 404, "nobody"},
		{"CheckpointService/RequestCheckpoint", `{"runId":"r1","timeout":"0s"}`, 400, "timeoutis0s"},
		{"CheckpointService/RequestCheckpoint", `{"runId":"r1","timeout":"3601s"}`, 400, "1h"},
		{"CheckpointService/RequestCheckpoint", `{"runId":"r1","after":99}`, 400, "RESTART"},
		{"CheckpointService/RequestCheckpoint", `{"runId":"nobody"}`, 404, "nobody"},
		{"CheckpointService/RequestCheckpoint", `{"runId":"r1"}`, 503, "n1"},
		{"CheckpointService/WatchCheckpoint", `{}`, 400, "checkpoint_id"},
		{"CheckpointService/WatchCheckpoint", `{"checkpointId":"c"}`, 404, "getcheckpoints"},
		{"RunService/WatchEvents", `{}`, 400, "run_id"},
		{"RunService/WatchEvents", `{"runId":"nobody"}`, 404, "nobody"},
	} {
		t.Run(tc.method+tc.body, func(t *testing.T) {
			if code, body := in.post(t, tc.method, tc.body); code != tc.code || !strings.Contains(body, tc.says) {
				t.Errorf("%d %s, want %d with %q", code, body, tc.code, tc.says)
			}
		})
	}
}

// publish puts a step's event on the bus.
func (in *installation) publish(t *testing.T, step uint64) {
	t.Helper()
	event := &commonv1.Event{RunId: "r1", Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(step)}}}
	_, err := in.bus.Publish(t.Context(), bus.Message{
		Node: "n1", Position: &agentv1.Position{Epoch: 1, Sequence: step}, Received: time.Now(),
		Batch: &agentv1.EventBatch{RunId: "r1", Events: []*commonv1.Event{event}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatchEvents(t *testing.T) {
	in := install(t)
	in.putRun(t, "r1", controlv1.RunState_RUN_STATE_RUNNING)
	in.publish(t, 1)
	in.publish(t, 2)
	watch := func(follow bool) func() (int64, error) {
		stream, err := controlv1.NewRunServiceClient(in.conn).WatchEvents(t.Context(), &controlv1.WatchEventsRequest{RunId: "r1", Follow: follow})
		if err != nil {
			t.Fatal(err)
		}
		if first, err := stream.Recv(); err != nil || first.Event != nil {
			t.Fatalf("first response %v, %v, want an empty one", first, err)
		}
		return func() (int64, error) {
			response, err := stream.Recv()
			return response.GetEvent().GetEvent().GetStep().GetStep(), err
		}
	}
	next := watch(false)
	for _, want := range []int64{1, 2} {
		if got, err := next(); got != want || err != nil {
			t.Errorf("got step %d, %v, want %d", got, err, want)
		}
	}
	if _, err := next(); !errors.Is(err, io.EOF) {
		t.Errorf("the watch ended with %v, want EOF", err)
	}
	next = watch(true)
	for step := int64(1); step <= 4; step++ {
		if step > 2 {
			in.publish(t, uint64(step))
		}
		if got, err := next(); got != step || err != nil {
			t.Errorf("got step %d, %v, want %d", got, err, step)
		}
	}
	in.stop()
	if _, err := next(); status.Code(err) != codes.Unavailable {
		t.Errorf("the control plane went down: %v, want UNAVAILABLE", err)
	}
}
