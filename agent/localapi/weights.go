package localapi

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// keptNumbers is how many weights are kept of a process until it reports the
// steps that they are of; reports come some steps late.
const keptNumbers = 8192

// Weights answers how much each task's loss counts in a step. What was asked and
// answered is remembered, and goes into the report of that step where the
// trainer leaves it out: so weights are history, and detection sees them,
// whatever the trainer says of them itself.
func (a *API) Weights(ctx context.Context, in *trainerv1.WeightsRequest) (*trainerv1.WeightsResponse, error) {
	s, err := a.trainer(ctx, in.SessionId)
	if err != nil {
		return nil, err
	}
	if a.deps.Weights == nil {
		return nil, fault.New(fault.Unsupported, "weights: this agent was built without the methods")
	}
	a.sessions.heard(s, connectionOf(ctx))
	out, err := a.deps.Weights.Weigh(fmt.Sprintf("%s/%d/%d", s.RunID, s.Attempt, s.Rank), in)
	if err != nil {
		a.weights.WithLabelValues("", "refused").Inc()
		return nil, err
	}
	a.weights.WithLabelValues(in.Method, "answered").Inc()
	a.sessions.weighed(s, in, out)
	return out, nil
}

// weighing is one answered request.
type weighing struct {
	step    int64
	tasks   []*trainerv1.WeighedTask
	weights []float64
	cosine  *float64
}

// weighings is the last answers to one process, by step.
type weighings struct{ ring []weighing }

// put takes an answer in, in place of the one that is furthest back.
func (w *weighings) put(one weighing) {
	if room := max(16, keptNumbers/len(one.tasks)); len(w.ring) != room {
		w.ring = make([]weighing, room)
	}
	w.ring[one.step%int64(len(w.ring))] = one
}

// of gives the answer for a step, if it is still there.
func (w *weighings) of(step int64) (weighing, bool) {
	if len(w.ring) == 0 || step < 1 {
		return weighing{}, false
	}
	one := w.ring[step%int64(len(w.ring))]
	return one, one.step == step
}

func (t *Sessions) weighed(s *Session, in *trainerv1.WeightsRequest, out *trainerv1.WeightsResponse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.weighings.put(weighing{step: in.Step, tasks: in.Tasks, weights: out.Weights, cosine: out.GradientCosine})
}

// fillIn adds to a step's report what is known of its weights from elsewhere.
func (t *Sessions) fillIn(s *Session, step *commonv1.StepReport) {
	if step == nil {
		return
	}
	t.mu.Lock()
	one, ok := s.weighings.of(step.Step)
	t.mu.Unlock()
	if !ok {
		return
	}
	if len(step.TaskWeights) == 0 {
		step.TaskWeights = make(map[string]float64, len(one.tasks))
		for i, task := range one.tasks {
			step.TaskWeights[task.Name] = one.weights[i]
		}
	}
	if len(step.TaskLosses) == 0 {
		step.TaskLosses = make(map[string]float64, len(one.tasks))
		for _, task := range one.tasks {
			step.TaskLosses[task.Name] = task.Loss
		}
	}
	if step.GradientCosine == nil && one.cosine != nil {
		step.GradientCosine = proto.Float64(*one.cosine)
	}
}
