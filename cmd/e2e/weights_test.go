package e2e

import (
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// TestWeightsAreWatched has a trainer ask for its tasks' weights and report steps
// that say nothing of them. One task's loss is so large that its learnt weight
// goes, and the gradients point against each other: both are found, and become
// incidents.
func TestWeightsAreWatched(t *testing.T) {
	h := open(t, "", "")
	const run, steps, batch = "weighs", 240, 20
	conn, err := grpc.NewClient("unix:"+h.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := trainerv1.NewTrainerServiceClient(conn)
	registered, err := client.Register(t.Context(), &trainerv1.RegisterRequest{RunId: run,
		Trainer: &commonv1.TrainerRegistered{WorldSize: 1, Pid: 1, Framework: "test/1"}})
	if err != nil {
		t.Fatal(err)
	}
	var events []*commonv1.Event
	var state []byte
	for step := range int64(steps) {
		out, err := client.Weights(t.Context(), &trainerv1.WeightsRequest{
			SessionId: registered.SessionId, Method: "uncertainty", Settings: `{"learning_rate": 0.5}`, Step: step + 1, State: state,
			Tasks:       []*trainerv1.WeighedTask{{Name: "small", Loss: 1}, {Name: "large", Loss: 5000}},
			DotProducts: []float64{1, -0.5, -0.5, 1},
		})
		if err != nil {
			t.Fatal(err)
		}
		state = out.State
		events = append(events, &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: step + 1, Loss: proto.Float64(1)}}})
		if len(events) == batch {
			if _, err := client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: registered.SessionId, Events: events}); err != nil {
				t.Fatal(err)
			}
			events = nil
		}
	}
	has := func(r *controlv1.GetRunResponse, kind string) bool {
		return slices.ContainsFunc(r.Incidents, func(i *controlv1.Incident) bool {
			return slices.ContainsFunc(i.Findings, func(f *controlv1.Finding) bool { return f.Kind == kind })
		})
	}
	h.await(run, func(r *controlv1.GetRunResponse) bool {
		return has(r, "weight_collapse") && has(r, "gradient_conflict")
	})
}
