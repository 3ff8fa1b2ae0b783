package trainer

import (
	"sync"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Phase says that training pauses on purpose, for instance for an evaluation, a
// checkpoint or set-up: no step is missed meanwhile. The caller calls end when
// it goes on; again does nothing. Neither blocks.
//
//	defer session.Phase(commonv1.PhaseKind_PHASE_KIND_EVALUATION)()
func (s *Session) Phase(kind commonv1.PhaseKind) (end func()) {
	s.phase(kind, commonv1.PhaseEdge_PHASE_EDGE_BEGIN)
	return sync.OnceFunc(func() { s.phase(kind, commonv1.PhaseEdge_PHASE_EDGE_END) })
}

// Change says that something is another from here on by intent: the data, the
// loss, the learning rate, the number of ranks, the length of sequences. What
// was normal before says nothing of what comes. It does not block.
func (s *Session) Change(kind commonv1.PhaseKind) {
	s.phase(kind, commonv1.PhaseEdge_PHASE_EDGE_BEGIN)
}

func (s *Session) phase(kind commonv1.PhaseKind, edge commonv1.PhaseEdge) {
	s.Report(&commonv1.Event{Body: &commonv1.Event_Phase{Phase: &commonv1.Phase{
		Kind: kind, Edge: edge, Step: max(0, s.step.Load()),
	}}})
}

// Evaluation is what a pass over held-out data measured.
type Evaluation struct {
	Loss    Measured[float64]  // may be non-finite
	Tasks   []Task             // loss of each task; weights do not count here
	Metrics map[string]float64 // by name, for instance "accuracy"; copied
}

// Evaluated reports an evaluation after the last step that was reported. It
// does not block.
func (s *Session) Evaluated(e Evaluation) {
	body := &commonv1.Evaluation{Step: max(0, s.step.Load()), Loss: e.Loss.pointer()}
	for _, task := range e.Tasks {
		if task.Loss.Known {
			put(&body.TaskLosses, task.Name, task.Loss.Value, len(e.Tasks))
		}
	}
	for name, value := range e.Metrics {
		put(&body.Metrics, name, value, len(e.Metrics))
	}
	s.Report(&commonv1.Event{Body: &commonv1.Event_Evaluation{Evaluation: body}})
}
