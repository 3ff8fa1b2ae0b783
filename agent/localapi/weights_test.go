package localapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// weigher answers with the step as every weight, and notes who asked.
type weigher struct{ keys []string }

func (w *weigher) Weigh(key string, in *trainerv1.WeightsRequest) (*trainerv1.WeightsResponse, error) {
	w.keys = append(w.keys, key)
	if in.Method == "bad" {
		return nil, fault.New(fault.Invalid, "no such method")
	}
	out := &trainerv1.WeightsResponse{State: []byte{1}, GradientCosine: proto.Float64(-0.25)}
	for range in.Tasks {
		out.Weights = append(out.Weights, float64(in.Step))
	}
	return out, nil
}

func asks(session, method string, step int64) *trainerv1.WeightsRequest {
	return &trainerv1.WeightsRequest{SessionId: session, Method: method, Step: step,
		Tasks: []*trainerv1.WeighedTask{{Name: "a", Loss: 2}, {Name: "b", Loss: 3}}}
}

// TestWeightsAreHistory: what a trainer was answered is in the report of the
// step, but what it says itself counts.
func TestWeightsAreHistory(t *testing.T) {
	answers := &weigher{}
	n := serveWith(t, answers)
	session := n.register(registration("run", 2))
	for step := range int64(3) {
		out, err := n.client.Weights(t.Context(), asks(session, "equal", step+1))
		if err != nil || len(out.Weights) != 2 || out.Weights[0] != float64(step+1) {
			t.Fatalf("weights %v, %v", out, err)
		}
	}
	if diff := cmp.Diff([]string{"run/4/2", "run/4/2", "run/4/2"}, answers.keys); diff != "" {
		t.Error(diff)
	}
	if _, err := n.client.Weights(t.Context(), asks(session, "bad", 4)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a bad request: %v", err)
	}
	var events []*commonv1.Event
	for _, report := range []*commonv1.StepReport{{Step: 2}, {Step: 3, TaskWeights: map[string]float64{"a": 7}}, {Step: 4}} {
		events = append(events, &commonv1.Event{Body: &commonv1.Event_Step{Step: report}})
	}
	if _, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: session, Events: events}); err != nil {
		t.Fatal(err)
	}
	got := n.list("run")[1:]
	losses := map[string]float64{"a": 2, "b": 3}
	for i, want := range []*commonv1.StepReport{
		{Step: 2, TaskWeights: map[string]float64{"a": 2, "b": 2}, TaskLosses: losses, GradientCosine: proto.Float64(-0.25)},
		{Step: 3, TaskWeights: map[string]float64{"a": 7}, TaskLosses: losses, GradientCosine: proto.Float64(-0.25)},
		{Step: 4},
	} {
		if !proto.Equal(want, got[i].GetStep()) {
			t.Errorf("step %d is kept as %v, want %v", want.Step, got[i].GetStep(), want)
		}
	}
	const metrics = `
# HELP vigil_agent_weights_total Times that a trainer asked for its tasks' weights, by method and by result: answered, refused.
# TYPE vigil_agent_weights_total counter
vigil_agent_weights_total{method="",result="refused"} 1
vigil_agent_weights_total{method="equal",result="answered"} 3
`
	if err := testutil.GatherAndCompare(n.metrics, strings.NewReader(metrics), "vigil_agent_weights_total"); err != nil {
		t.Error(err)
	}
}

// TestWeightsAsJSON: a trainer with nothing but a standard library can ask.
func TestWeightsAsJSON(t *testing.T) {
	n := serveWith(t, &weigher{})
	session := n.register(registration("run", 0))
	code, answer := n.post("Weights", `{"sessionId": "`+session+`", "method": "equal", "step": 5, "tasks": [{"name": "a", "loss": 1.5}]}`)
	if code != http.StatusOK || !strings.Contains(strings.ReplaceAll(answer, " ", ""), `"weights":[5]`) {
		t.Errorf("%d %s", code, answer)
	}
}

func TestWeightsWithoutMethods(t *testing.T) {
	n := serve(t)
	session := n.register(registration("run", 0))
	if _, err := n.client.Weights(t.Context(), asks(session, "equal", 1)); status.Code(err) != codes.Unimplemented {
		t.Errorf("an agent without methods says %v", err)
	}
	if _, err := n.client.Weights(t.Context(), asks("other", "equal", 1)); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown session: %v", err)
	}
}
