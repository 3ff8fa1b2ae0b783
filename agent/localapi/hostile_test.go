package localapi_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

func TestRegistrationsThatAreRefused(t *testing.T) {
	n := serve(t)
	settings := map[string]string{}
	for i := range 300 {
		settings[fmt.Sprint(i)] = ""
	}
	for says, in := range map[string]*trainerv1.RegisterRequest{
		`run id ""`:              {Trainer: &commonv1.TrainerRegistered{WorldSize: 1}},
		`run id "../../etc"`:     {RunId: "../../etc", Trainer: &commonv1.TrainerRegistered{WorldSize: 1}},
		`run id "-"`:             {RunId: "-", Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR},
		`run id "_x"`:            {RunId: "_x", Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR},
		`run id "a/b"`:           {RunId: "a/b", Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR},
		"trainer is missing":     {RunId: "run"},
		"world_size is 0":        {RunId: "run", Trainer: &commonv1.TrainerRegistered{}},
		"rank is 7":              {RunId: "run", Rank: 7, Trainer: &commonv1.TrainerRegistered{WorldSize: 7}},
		"kind 9":                 {RunId: "run", Kind: 9},
		"300 entries":            {RunId: "run", Trainer: &commonv1.TrainerRegistered{WorldSize: 1, Settings: settings}},
		"longer than 4096 bytes": {RunId: "run", Trainer: &commonv1.TrainerRegistered{WorldSize: 1, Name: strings.Repeat("x", 5000)}},
		`settings["k"]`:          {RunId: "run", Trainer: &commonv1.TrainerRegistered{WorldSize: 1, Settings: map[string]string{"k": strings.Repeat("x", 5000)}}},
	} {
		_, err := n.client.Register(t.Context(), in)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if got := n.sessions.Trainers("run"); len(got) > 0 {
		t.Errorf("sessions: %v", got)
	}
}

func TestReportsThatAreRefused(t *testing.T) {
	n := serve(t)
	session := n.register(registration("run", 0))
	step := &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 1}}}
	progress := func(state commonv1.CheckpointState, id string) *commonv1.Event {
		return &commonv1.Event{Body: &commonv1.Event_Checkpoint{Checkpoint: &commonv1.CheckpointProgress{CheckpointId: id, State: state}}}
	}
	many := make([]*commonv1.Event, 4097)
	for i := range many {
		many[i] = step
	}
	for says, in := range map[string]*trainerv1.ReportRequest{
		"not known":     {SessionId: "guessed", Events: []*commonv1.Event{step}},
		"4097 events":   {SessionId: session, Events: many},
		"dropped is -1": {SessionId: session, Dropped: -1},
		"nothing is in": {SessionId: session, Events: []*commonv1.Event{step, {}}},
		"event_id":      {SessionId: session, Events: []*commonv1.Event{{EventId: strings.Repeat("x", 65), Body: step.Body}}},
		"is CHECKPOINT_STATE_VERIFIED": {SessionId: session, Events: []*commonv1.Event{
			progress(commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED, "ck")}},
		`id "../ck"`: {SessionId: session, Events: []*commonv1.Event{
			progress(commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED, "../ck")}},
		"on its node": {SessionId: session, Events: []*commonv1.Event{
			{Body: &commonv1.Event_NodeFault{NodeFault: &commonv1.NodeFault{}}}}},
		"command results": {SessionId: session, Events: []*commonv1.Event{
			{Body: &commonv1.Event_CommandResult{CommandResult: &commonv1.CommandResult{CommandId: "c"}}}}},
	} {
		_, err := n.client.Report(t.Context(), in)
		if kind := fault.KindOf(fault.FromGRPC(err)); (kind != fault.Invalid && kind != fault.NotFound) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if got := len(n.list("run")); got != 1 {
		t.Errorf("%d events; want the registration alone", got)
	}
	_, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: session, Events: []*commonv1.Event{
		step, progress(commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, "ck")}})
	if err != nil {
		t.Errorf("good events after all the bad: %v", err)
	}
}

func TestCheckpointCallsThatAreRefused(t *testing.T) {
	n := serve(t)
	session := n.register(registration("run", 0))
	supervisor := n.register(&trainerv1.RegisterRequest{RunId: "run", Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR})
	begin := func(session, id string) error {
		_, err := n.client.BeginCheckpoint(t.Context(), &trainerv1.BeginCheckpointRequest{SessionId: session, CheckpointId: id})
		return err
	}
	commit := func(session, id string) error {
		_, err := n.client.CommitCheckpoint(t.Context(), &trainerv1.CommitCheckpointRequest{SessionId: session, CheckpointId: id})
		return err
	}
	resolve := func(session string, world uint32) error {
		_, err := n.client.ResolveResume(t.Context(), &trainerv1.ResolveResumeRequest{SessionId: session, WorldSize: world})
		return err
	}
	for name, tc := range map[string]struct {
		err  error
		want codes.Code
	}{
		"begin: traversal":    {begin(session, "../../x"), codes.InvalidArgument},
		"begin: absolute":     {begin(session, "/etc"), codes.InvalidArgument},
		"begin: supervisor":   {begin(supervisor, ""), codes.FailedPrecondition},
		"begin: guessed":      {begin("guessed", ""), codes.NotFound},
		"commit: not begun":   {commit(session, "ck"), codes.NotFound},
		"commit: traversal":   {commit(session, "../../x"), codes.NotFound},
		"commit: supervisor":  {commit(supervisor, "ck"), codes.FailedPrecondition},
		"resolve: no ranks":   {resolve(session, 0), codes.InvalidArgument},
		"resolve: supervisor": {resolve(supervisor, 1), codes.FailedPrecondition},
		"resolve: guessed":    {resolve("guessed", 1), codes.NotFound},
	} {
		if status.Code(tc.err) != tc.want {
			t.Errorf("%s: %v; want %s", name, tc.err, tc.want)
		}
	}
}

// Whatever a session says, what is kept is its own run's and rank's.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"events":[{"runId":"other","rank":9,"step":{"step":1,"loss":"NaN"}}]}`))
	f.Add([]byte(`{"events":[{"nonFinite":{"step":-1}},{"checkpoint":{"checkpointId":"a","state":"CHECKPOINT_STATE_DIRECTED"}}],"dropped":"5"}`))
	f.Add([]byte(`{"events":[null]}`))
	f.Add([]byte(`{"events":[{}],"dropped":-1}`))
	n := makeNode(f)
	out, err := n.api.Register(f.Context(), registration("run", 2))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var in trainerv1.ReportRequest
		if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &in) != nil {
			return
		}
		in.SessionId = out.SessionId
		n.mu.Lock()
		n.events = nil
		n.mu.Unlock()
		if _, err := n.api.Report(t.Context(), &in); err != nil {
			if kind := fault.KindOf(err); kind != fault.Invalid {
				t.Errorf("error of kind %s: %v", kind, err)
			}
			return
		}
		if got := len(n.list("run")); got != len(in.Events) {
			t.Errorf("%d events of the run; want %d", got, len(in.Events))
		}
		for _, e := range n.list("run") {
			if e.Rank != 2 || e.Attempt != 4 || e.Node != "" {
				t.Errorf("not stamped: %v", e)
			}
		}
	})
}
